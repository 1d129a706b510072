"""The steps of the method's official code in plain PyTorch, to be timed beside ours: python scripts/torch_baseline.py

Written from a description of that code (the one in ne_jax/recoding/paper.py, where the formula and the reasons against it stand), the way a
PyTorch user would: float32, whole batches, torch.nn.functional.unfold and fold. What it returns is left normalised, for a model to read.
INSECURE like its model: one tile for each image. Prints images/s, the best of several runs at batch 64, 224 x 224.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Draws = tuple[torch.Tensor, torch.Tensor]


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(images - mean) / std for images (B, C, H, W)."""
    mean, std = (torch.tensor(values, dtype=images.dtype).view(-1, 1, 1) for values in (mean, std))
    return (images - mean) / std


def draw_twice(batch: int, directions: int) -> Draws:
    """Two standard normal draws (B, k, 1): one noise for all windows of an image."""
    return torch.randn(batch, directions, 1), torch.randn(batch, directions, 1)


def add_tile(windows: torch.Tensor, basis: torch.Tensor, psnr_db: float, draws: Draws | None = None) -> torch.Tensor:
    """Normalised windows (B, d, P) plus the tile: its scale from the first draw, its noise from the second."""
    first, second = draws or draw_twice(len(windows), basis.shape[1])
    power = (windows + basis @ first).square().mean(dim=(1, 2), keepdim=True)
    scale = (255**2 / 10 ** (psnr_db / 10) / power).sqrt()
    return windows + scale * (basis @ second)


@torch.inference_mode()
def recode_tile(
    images: torch.Tensor,
    basis: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    psnr_db: float,
    patch: int = 16,
    draws: Draws | None = None,
) -> torch.Tensor:
    """Images (B, C, H, W) in [0, 1] to recoded ones, normalised, for a layer of patches.

    basis: (d, k), orthonormal columns; a patch is flattened as (channel, row, column), as `unfold` does.
    """
    windows = functional.unfold(normalise(images, mean, std), patch, stride=patch)
    return functional.fold(add_tile(windows, basis, psnr_db, draws), images.shape[2:], patch, stride=patch)


@torch.inference_mode()
def recode_unfold_stem(
    images: torch.Tensor,
    basis: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    psnr_db: float,
    kernel: int = 7,
    stride: int = 2,
    padding: int = 3,
    folded: bool = True,
    draws: Draws | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same for windows that overlap: the unfolded tensor (B, C, H_out kernel, W_out kernel), which the authorized model's stem
    reads at a stride of its own size, and, if `folded`, the images for others (B, C, H, W), not divided by counts."""
    windows = functional.unfold(normalise(images, mean, std), kernel, padding=padding, stride=stride)
    noisy = add_tile(windows, basis, psnr_db, draws)
    sides = [((side + 2 * padding - kernel) // stride + 1) * kernel for side in images.shape[2:]]
    unfolded = functional.fold(noisy, sides, kernel, stride=kernel)
    return unfolded, functional.fold(
        noisy, images.shape[2:], kernel, padding=padding, stride=stride
    ) if folded else None


def images_per_second(recode: Callable[[], object], batch: int, repeats: int) -> float:
    """The best of `repeats` runs, after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        recode()
        seconds.append(time.perf_counter() - start)
    return batch / min(seconds[1:])


def main(batch: int = 64, repeats: int = 5) -> None:
    """Print images/s for the two layers of the comparison."""
    torch.manual_seed(0)
    images = torch.rand(batch, 3, 224, 224)
    patch, stem = (
        (torch.linalg.qr(torch.randn(d, k)).Q, IMAGENET_MEAN, IMAGENET_STD, 30.0) for d, k in ((768, 400), (147, 83))
    )
    cases = {
        "16 x 16 patches, k = 400": lambda: recode_tile(images, *patch),
        "7 x 7 / 2 stem, k = 83, unfolded": lambda: recode_unfold_stem(images, *stem, folded=False),
        "7 x 7 / 2 stem, k = 83, unfolded and folded": lambda: recode_unfold_stem(images, *stem),
    }
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {batch}, best of {repeats}")
    for name, recode in cases.items():
        print(f"{name}: {images_per_second(recode, batch, repeats):.0f} images/s")


if __name__ == "__main__":
    main()
