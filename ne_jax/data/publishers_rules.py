"""Preprocessing out of the JSON files that publishers put beside weights: which of them speaks of images, and in whose words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ne_jax.data.preprocess import Preprocess, from_hugging_face, from_timm
from ne_jax.errors import UserError

_NESTED, _PLAIN, _VIDEO, _CONFIG = (
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "config.json",
)  # fmt: skip


def from_files(found: Mapping[str, Mapping[str, Any]]) -> Preprocess | None:
    """The rules in publishers' files, by the files' names; None where no file has any.

    As transformers looks for them: `image_processor` in processor_config.json, which it writes since version 5, then
    preprocessor_config.json; or timm's `pretrained_cfg` in config.json. Raises UserError for rules of videos, and for what
    `from_hugging_face` and `from_timm` refuse.
    """
    processor = found.get(_NESTED, {})
    nested, plain = processor.get("image_processor"), found.get(_PLAIN)
    if nested is not None and not isinstance(nested, Mapping):
        raise UserError(f"preprocessing file: image_processor in {_NESTED} is {nested!r}; fetch the file again")
    for rules in (rules for rules in (nested, plain) if rules is not None):
        if "video_processor_type" in rules:
            raise _of_videos(f"{rules['video_processor_type']}")
        return from_hugging_face(rules)
    if "video_processor" in processor or _VIDEO in found:
        raise _of_videos(_NESTED if "video_processor" in processor else _VIDEO)
    return from_timm(found[_CONFIG]) if "pretrained_cfg" in found.get(_CONFIG, {}) else None


def _of_videos(what: str) -> UserError:
    return UserError(f"preprocessing file: {what} prepares videos, and this is a model of images; give preprocess")
