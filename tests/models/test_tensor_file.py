"""What every kind of checkpoint is held to: weights are floating point, however their file calls them."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from ne_jax import UserError
from ne_jax.models.porting.tensor_file import as_float32, wrapping
from ne_jax.models.porting.tensor_files import open_tensors

NO_WEIGHTS = (np.bool_, np.int8, np.uint8, np.int32, np.int64, np.uint16, np.complex64, np.complex128)


@pytest.mark.parametrize("dtype", NO_WEIGHTS)
@pytest.mark.parametrize("ending", ["safetensors", "npz"])
def test_numbers_that_are_no_weights_are_refused_by_name(tmp_path, dtype, ending):
    """Instead of being turned into floating point: the tensor, what it is, and the way out; other tensors can be read."""
    if ending == "safetensors" and dtype == np.complex128:
        pytest.skip("safetensors has no such numbers")
    content, path = {"a": np.ones(3, np.float32), "b": np.ones(3, dtype)}, tmp_path / f"model.{ending}"
    if ending == "npz":
        np.savez(path, **content)
    else:
        safetensors.numpy.save_file(content, path)
    file = open_tensors(path)
    np.testing.assert_array_equal(file.read("a"), 1)
    with pytest.raises(
        UserError, match=rf"^checkpoint {path}: b is of \w+, and weights are floating point \(16, 32 or"
    ):
        file.read("b")


def test_a_mislabelled_tensor_is_refused(tmp_path):
    """Floating point that its file calls integers would be read as large whole numbers."""
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.ones(3, np.float32)}, path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["a"]["dtype"] = "I32"
    path.write_bytes(whole[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(length) + whole[8 + length :])
    with pytest.raises(UserError, match="a is of I32, and weights are floating point"):
        open_tensors(path).read("a")


def test_floating_point_of_every_width_is_taken():
    """16, 32 and 64 bits, bfloat16 with and without its name."""
    for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        found = as_float32(np.ones(3, dtype), "here")
        assert found.dtype == np.float32 and (found == 1).all()
    assert (as_float32(np.ones(3, ml_dtypes.bfloat16).view("V2"), "here") == 1).all()
    for dtype in (ml_dtypes.float8_e4m3fn, np.dtype("V4"), np.dtype("U3"), np.dtype([("a", "<f4")])):
        with pytest.raises(UserError, match="^here is of "):
            as_float32(np.zeros(3, dtype), "here")


def test_what_wraps_names_is_what_all_of_them_share():
    """Only the known wrappers, in any order, and nothing of an empty file."""
    assert wrapping({}) == "" and wrapping({"model.a": 0, "module.b": 0}) == "" and wrapping({"encoder.a": 0}) == ""
    assert wrapping({"module.model.a": 0, "module.model.b": 0}) == "module.model."
