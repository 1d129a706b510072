"""Files beside weights: the one that speaks of images is found, and none is taken for what it is not."""

import json

import pytest
from absl import logging

from ne_jax.data.preprocess import Preprocess, from_hugging_face
from ne_jax.data.publishers_rules import from_files
from ne_jax.errors import UserError
from ne_jax.models.loading import load_model
from tests.models.test_loading import NAME, TIMM, tensors, write

VIT = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 224, "width": 224},
    "image_mean": [0.1, 0.2, 0.3],
}
NESTED = {"processor_class": "SomeProcessor", "image_processor": VIT}


def test_what_transformers_nests_since_version_5_is_read():
    """`image_processor` in processor_config.json, alone and before an older file, as transformers has it."""
    expected = from_hugging_face(VIT)
    assert from_files({"processor_config.json": NESTED}) == expected
    assert expected.mean == (0.1, 0.2, 0.3)
    older = {"preprocessor_config.json": VIT | {"image_mean": [0.9] * 3}}
    assert from_files({"processor_config.json": NESTED} | older) == expected
    legacy = {"processor_config.json": {"processor_class": "SomeProcessor"}}
    assert from_files(legacy | older).mean == (0.9,) * 3
    assert from_files(legacy) is None and from_files({}) is None and from_files({"config.json": {"a": 1}}) is None


VIDEOS = {
    "nested": {"processor_config.json": {"video_processor": {"size": 224}}},
    "apart": {"video_preprocessor_config.json": {"size": 224}},
    "by its type": {"preprocessor_config.json": {"video_processor_type": "SomeVideoProcessor", "size": 224}},
    "nested, by its type": {"processor_config.json": {"image_processor": {"video_processor_type": "V", "size": 224}}},
}


@pytest.mark.parametrize("case", VIDEOS)
def test_rules_of_videos_are_refused(case):
    """They are no image's, and the default would be nobody's."""
    with pytest.raises(
        UserError, match="^preprocessing file: .* prepares videos, and this is a model of images; give prep"
    ):
        from_files(VIDEOS[case])
    images = {"preprocessor_config.json": VIT}
    if case in ("nested", "apart"):
        assert from_files(VIDEOS[case] | images) == from_hugging_face(VIT)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"do_center_crop": True}, "crop_size is missing; give"),
        ({"do_center_crop": True, "crop_size": None}, "crop_size is missing; give"),
        ({"image_mean": [float("nan")] * 3}, "image_mean is [nan, nan, nan]; give a number for each channel"),
        ({"image_std": [True] * 3}, "image_std is [True, True, True]; give a number for each channel"),
        ({"rescale_factor": float("nan")}, "rescale_factor is nan; give a number above 0"),
    ],
)
def test_rules_that_are_not_whole_are_told_by_their_field(change, expected):
    """Never another package's error, nor a default for what is asked for."""
    with pytest.raises(UserError) as caught:
        from_hugging_face(VIT | change)
    assert str(caught.value).startswith(f"preprocessing file: {expected}")
    with pytest.raises(UserError, match="image_processor in processor_config.json is 3"):
        from_files({"processor_config.json": {"image_processor": 3}})


def test_a_folder_with_nothing_but_nested_rules_is_prepared_by_them(tmp_path, monkeypatch):
    """Through load_model, without a word; and with one where nothing says how, which is then the publisher's way."""
    said = []
    monkeypatch.setattr(logging, "warning", lambda words, *values: said.append(words % values))
    write(tmp_path, tensors())
    assert load_model(NAME, tmp_path).preprocess == TIMM
    assert len(said) == 1 and said[0].startswith(
        f"checkpoint {tmp_path}: no file beside it says how images are prepared;"
    )
    assert "taken is what timm does: Preprocess(size=224" in said[0]
    (tmp_path / "processor_config.json").write_text(json.dumps(NESTED))
    assert load_model(NAME, tmp_path).preprocess == from_hugging_face(VIT) and len(said) == 1
    given = Preprocess(224, (0.5,) * 3, (0.5,) * 3)
    (tmp_path / "processor_config.json").unlink()
    assert load_model(NAME, tmp_path, preprocess=given).preprocess == given and len(said) == 1
