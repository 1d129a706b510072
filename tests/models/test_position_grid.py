"""A row of position embeddings is of the grid that is known, and no other is guessed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from absl import logging

from ne_jax.models.loading import load_model
from tests.models.test_loading import NAME, tensors, told, write


def of(folder, count: int, config: dict | None = None):
    """A DeiT whose file has so many positions, and what its publisher put beside it."""
    positions = np.random.default_rng(1).standard_normal((1, 1 + count, 192)).astype(np.float32)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return write(folder, tensors() | {"pos_embed": positions})


def test_a_grid_that_could_be_another_is_refused_by_name(tmp_path):
    """256 positions are 8 x 32 as well as 16 x 16: the tensor, what it could be, and both ways out."""
    assert told(NAME, of(tmp_path, 256)) == (
        f"checkpoint {tmp_path}: pos_embed: its 256 positions could be 16 x 16 or 8 x 32, 4 x 64, 2 x 128, and no file says which; "
        "give image_size = 256 if they are 16 x 16, or the config.json of its publisher beside it"
    )


@pytest.mark.parametrize(
    "config",
    [
        {"image_size": [128, 512]},
        {"pretrained_cfg": {"input_size": [3, 128, 512]}},
        {"model_args": {"img_size": [128, 512]}, "pretrained_cfg": {"input_size": [3, 224, 224]}},
    ],
    ids=["transformers", "timm", "timm's arguments"],
)
def test_a_grid_that_is_no_square_is_refused(tmp_path, config):
    """Whatever its publisher calls it, and whatever image size is asked for."""
    folder = of(tmp_path, 256, config)
    (folder / "preprocessor_config.json").write_text('{"size": 256}')
    for size in (None, 256):
        line = told(NAME, folder, image_size=size)
        assert line.startswith(f"checkpoint {tmp_path}: pos_embed is of a grid of 8 x 32 patches (config.json)")


@pytest.mark.parametrize(
    "config", [{"image_size": 256}, {"image_size": [256, 256]}, {"pretrained_cfg": {"input_size": [3, 256, 256]}}]
)
def test_a_square_that_its_file_tells_is_taken(tmp_path, config):
    """And resized to whatever is asked for."""
    folder = of(tmp_path, 256, config)
    assert load_model(NAME, folder).notes == ("pos_embed resized to images of 224 pixels",)
    assert load_model(NAME, folder, image_size=256).notes == ()


def test_the_size_that_is_asked_for_says_it_too(tmp_path, monkeypatch):
    """The network's own grid, with a word on what it was taken for."""
    said = []
    monkeypatch.setattr(logging, "warning", lambda words, *values: said.append(words % values))
    assert load_model(NAME, of(tmp_path, 256), image_size=256).preprocess.size == 256
    assert any("its 256 positions could be 16 x 16 or 8 x 32" in line and "taken as 16 x 16" in line for line in said)


@pytest.mark.parametrize(("count", "size"), [(196, 224), (196, 384), (576, 224), (49, 224), (169, 224)])
def test_published_grids_and_those_of_one_square_alone_are_taken(tmp_path, count, size):
    """14 x 14 and 24 x 24 are published; 7 x 7 and 13 x 13 can be nothing else of two rows."""
    assert load_model(NAME, of(tmp_path, count), image_size=size).preprocess.size == size
