"""Checkpoints as they are published, opened without unpickling: names and shapes at once, tensors when they are asked for.

FILE.safetensors                       one file
FOLDER/model.safetensors(.index.json)  a Hugging Face folder, sharded or not; FOLDER/pytorch_model.bin too
FILE.pth, .pt, .bin                    a PyTorch state dict, read with weights_only=True (needs torch)
FILE.npz                               Google's, bfloat16 or float32
FILE.onnx                              initializers of a graph that PyTorch exported (needs onnx)
"""

from __future__ import annotations

import json
import mmap
import os
import pathlib
import zipfile

import numpy as np
import safetensors
from jaxtyping import UInt8

from ne_jax.errors import UserError
from ne_jax.models.porting.onnx_weights import open_onnx
from ne_jax.models.porting.tensor_file import BROKEN, TensorFile, as_float32, line, refused
from ne_jax.models.porting.torch_weights import open_torch

_TORCH = (".pth", ".pt", ".bin", ".tar", ".ckpt")
ENDINGS = (".safetensors", ".npz", ".onnx", *_TORCH)
_WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin")
# What safetensors calls numbers that can be weights.
_FLOATS = ("F64", "F32", "F16", "BF16")
# The JSON files that publishers put beside weights.
_BESIDE = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "config.json")


def open_tensors(path: str | os.PathLike, weights: str | None = None) -> TensorFile:
    """The checkpoint at `path`. weights: which of several state dicts in a PyTorch file.

    Names are the network's own: what data-parallel training, torch.compile and Lightning put in front of all of them ("module.",
    "_orig_mod.", "model.") is taken off. Raises UserError for a file that is missing, truncated, of another kind, or holds code.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    ending = path.suffix.lower()
    if ending in _TORCH:
        return open_torch(path, weights).unwrapped()
    if weights:
        raise UserError(f"checkpoint {path}: holds one set of weights; leave weights out")
    openers = {".safetensors": _open_safetensors, ".npz": _open_npz, ".onnx": open_onnx, ".json": _open_sharded}
    if ending not in openers or (ending == ".json" and not path.name.endswith(".index.json")):
        raise UserError(f'checkpoint {path}: ending "{ending}" is unknown; give .safetensors, .pth, .npz or .onnx')
    return openers[ending](path).unwrapped()


def beside(path: str | os.PathLike) -> dict[str, dict]:
    """The JSON files that publishers put beside weights, such as "preprocessor_config.json" and "config.json": those that exist."""
    path = pathlib.Path(path)
    folder = path if path.is_dir() else path.parent
    found = {}
    for name in _BESIDE:
        if (folder / name).is_file():
            found[name] = _read_json(folder / name)
    return found


def _weights_in(folder: pathlib.Path) -> pathlib.Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    single = sorted(folder.glob("*.safetensors"))
    if len(single) == 1:
        return single[0]
    raise UserError(f"checkpoint {folder}: the folder has none of {', '.join(_WEIGHTS)}; name the file")


def _read_json(path: pathlib.Path) -> dict:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {path}: not a whole JSON file ({line(error)}); fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"checkpoint {path}: holds no JSON object; fetch it again")
    return value


def _open_safetensors(path: pathlib.Path) -> TensorFile:
    try:
        file = safetensors.safe_open(path, framework="numpy")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 no mapping
    except safetensors.SafetensorError as error:
        raise UserError(f"checkpoint {path}: not a whole safetensors file ({line(error)}); fetch it again") from error
    mapped = _mapped(path)
    length = int.from_bytes(mapped[:8].tobytes(), "little")
    header = json.loads(mapped[8 : 8 + length].tobytes())  # `safe_open` has checked it; it copies tensors, views do not

    def read(name: str, integers: bool = False) -> np.ndarray:
        kind, place = header[name]["dtype"], f"checkpoint {path}: {name}"
        if integers and kind[0] in "IUB" and kind != "BF16":
            return file.get_tensor(name)
        if kind not in _FLOATS:
            raise refused(place, kind)
        if kind != "F32":
            return as_float32(file.get_tensor(name), place)
        start, end = header[name]["data_offsets"]
        data = mapped[8 + length + start : 8 + length + end]
        if data.ctypes.data % 4:  # an old file whose header is not padded
            data = data.copy()
        return data.view("<f4").reshape(shapes[name])

    return TensorFile((path,), shapes, read)


def _mapped(path: pathlib.Path) -> UInt8[np.ndarray, " size"]:
    """A file's bytes, in memory as they are on disk."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_WILLNEED"):  # Windows has no such advice
        mapped.madvise(mmap.MADV_WILLNEED)  # the system reads ahead while others are at work
    return np.frombuffer(mapped, np.uint8)


def _open_sharded(index: pathlib.Path) -> TensorFile:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise UserError(f"checkpoint {index}: has no weight_map; fetch it again")
    strange = sorted({place for place in places.values() if pathlib.PurePath(place).name != place})
    if strange:
        raise UserError(f"checkpoint {index}: names a shard outside its folder: {strange[0]}")
    absent = sorted({place for place in places.values() if not (index.parent / place).is_file()})
    if absent:
        raise UserError(f"checkpoint {index}: {len(absent)} shards are missing: {', '.join(absent[:4])}; fetch them")
    shards = {place: _open_safetensors(index.parent / place) for place in sorted(set(places.values()))}
    misplaced = sorted(name for name, place in places.items() if name not in shards[place].shapes)
    if misplaced:
        raise UserError(f"checkpoint {index}: {misplaced[0]} is not in {places[misplaced[0]]}; fetch the shards again")
    files = (index, *(shard.files[0] for shard in shards.values()))
    everywhere = {name: shard for shard in shards.values() for name in shard.shapes}
    shapes = {name: shard.shapes[name] for name, shard in everywhere.items()}
    return TensorFile(files, shapes, lambda name, **how: everywhere[name].read(name, **how))


def _open_npz(path: pathlib.Path) -> TensorFile:
    try:
        archive = zipfile.ZipFile(path)
        shapes = {name.removesuffix(".npy"): _npy_shape(archive, name) for name in archive.namelist()}
    except BROKEN as error:
        raise UserError(
            f"checkpoint {path}: not a whole npz file of plain arrays ({line(error)}); fetch it again"
        ) from error

    def read(name: str, integers: bool = False) -> np.ndarray:
        place = f"checkpoint {path}: {name}"
        try:
            with np.load(path, allow_pickle=False) as file:
                tensor = file[name]
        except BROKEN as error:
            raise UserError(f"{place} cannot be read ({line(error)}); fetch it again") from error
        return tensor if integers and tensor.dtype.kind in "iub" else as_float32(tensor, place)

    return TensorFile((path,), shapes, read)


def _npy_shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Shape of an array in an npz file, from its header alone. Raises ValueError for arrays of Python objects."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in header:
            raise ValueError(f"{name} is of .npy version {version}")
        shape, _, dtype = header[version](file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds pickled objects")
    return shape
