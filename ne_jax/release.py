"""Releases: NEs as files with a public manifest, written whole or not at all, and read back.

    RELEASE/manifest.json          what the files are and for whom; written last, so its presence says the release is complete
    RELEASE/images/NAME.png        format png8: 8-bit PNG, grey or RGB
    RELEASE/shards/00000.npz       format float32: arrays `images` (n, H, W, C) and `names`, no pickles

Nothing in a release gives the secret, the subspace, a label or a prediction.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image, UnidentifiedImageError

from ne_jax.errors import UserError
from ne_jax.pixels import from_bytes
from ne_jax.tensor_files import sha256

FORMATS = ("float32", "png8")
MANIFEST = "manifest.json"


def write_atomic(path: pathlib.Path, data: bytes | str) -> None:
    """Put `data` under its final name only when all of it is written: a kill leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
    os.replace(partial, path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """`value` as indented JSON, atomic. NaN and infinity are refused: they are no JSON."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def finite(values: Iterable) -> list[float | None]:
    """Numbers as JSON has them: None for NaN and infinity, such as the PSNR of an image that was left as it is."""
    return [float(value) if np.isfinite(value) else None for value in values]


def image_path(release: pathlib.Path, name: str) -> pathlib.Path:
    """The file of image `name` in a png8 release."""
    return release / "images" / f"{name}.png"


def shard_path(release: pathlib.Path, shard: int) -> pathlib.Path:
    """The file of a shard in a float32 release."""
    return release / "shards" / f"{shard:05d}.npz"


def to_stored(recoded: Float32[np.ndarray, "n height width channels"], release_format: str) -> np.ndarray:
    """What the format keeps of recoded pixels: float32 as they are, or rounded to 8 bits."""
    if release_format == "float32":
        return recoded
    return np.round(np.clip(recoded, 0, 1) * 255).astype(np.uint8)


def write_png(release: pathlib.Path, name: str, pixels: np.ndarray) -> None:
    """One image of a png8 release; `pixels` is uint8 (H, W, C)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", compress_level=1)
    write_atomic(image_path(release, name), buffer.getvalue())


def write_shard(release: pathlib.Path, shard: int, names: Sequence[str], images: np.ndarray) -> None:
    """One shard of a float32 release."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, images=images, names=np.array(names))
    write_atomic(shard_path(release, shard), buffer.getvalue())


def file_hashes(release: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file of the release but the manifest, by relative path, sorted."""
    files = sorted(file for folder in ("images", "shards") for file in (release / folder).rglob("*") if file.is_file())
    return {file.relative_to(release).as_posix(): sha256(file) for file in files if file.suffix in (".png", ".npz")}


def read_manifest(release: pathlib.Path) -> dict[str, Any]:
    """The manifest of a complete release. Raises UserError where there is none."""
    path = release / MANIFEST
    if not path.is_file():
        raise UserError(f"{release}: no {MANIFEST}, so no complete release; run --stage=encode first")
    return json.loads(path.read_text())


def read_release(
    release: pathlib.Path, batch_size: int
) -> Iterator[tuple[list[str], Float32[np.ndarray, "n height width channels"]]]:
    """Names and stored images of a release from its files, float32 in pixel units, in batches of at most `batch_size`.

    Raises UserError for a file that is missing or that no longer is what was written.
    """
    manifest = read_manifest(release)
    reader = {"float32": _read_shards, "png8": _read_pngs}[manifest["format"]]
    rows: list[tuple[str, np.ndarray]] = []
    for row in reader(release, manifest):
        rows.append(row)
        if len(rows) == batch_size:
            yield _stack(rows)
            rows = []
    if rows:
        yield _stack(rows)


def _stack(rows: list[tuple[str, np.ndarray]]) -> tuple[list[str], np.ndarray]:
    return [name for name, _ in rows], np.stack([image for _, image in rows])


def _read_shards(release: pathlib.Path, manifest: dict) -> Iterator[tuple[str, np.ndarray]]:
    for relative in manifest["files"]:
        path = release / relative
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as shard:
                names, images = shard["names"], shard["images"]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"release file {path} is broken ({error}); run --stage=encode into a new workdir"
            ) from error
        yield from zip(names.tolist(), images, strict=True)


def _read_pngs(release: pathlib.Path, manifest: dict) -> Iterator[tuple[str, np.ndarray]]:
    shape = tuple(manifest["image_shape"])
    for name in manifest["names"]:
        path = image_path(release, name)
        try:
            with Image.open(path) as image:
                pixels = from_bytes(np.asarray(image))
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise UserError(
                f"release file {path} is broken ({error}); run --stage=encode into a new workdir"
            ) from error
        if pixels.size != np.prod(shape):
            raise UserError(f"release file {path} is {pixels.shape}, not {shape}: it was changed after the release")
        yield name, pixels.reshape(shape)
