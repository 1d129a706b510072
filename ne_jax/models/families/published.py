"""What publishers do to images, as far as several families share it."""

from __future__ import annotations

from ne_jax.data.preprocess import Preprocess

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
INCEPTION = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def torchvision_eval(size: int, resize_to: int, interpolation: str = "bilinear") -> Preprocess:
    """torchvision's ImageClassification preset: shorter side to `resize_to`, centre crop."""
    return Preprocess(
        size, **IMAGENET, resize="shorter", resize_to=resize_to, interpolation=interpolation, crop="round"
    )


def timm_eval(size: int, crop_pct: float, statistics: dict = IMAGENET, interpolation: str = "bicubic") -> Preprocess:
    """timm's evaluation transform: shorter side to size / crop_pct, rounded down; centre crop."""
    resize_to = int(size / crop_pct)
    return Preprocess(
        size, **statistics, resize="shorter", resize_to=resize_to, interpolation=interpolation, crop="round"
    )
