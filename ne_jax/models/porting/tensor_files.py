"""Checkpoints as they are published, opened without unpickling: names and shapes at once, tensors when they are asked for.

FILE.safetensors                       one file
FOLDER/model.safetensors(.index.json)  a Hugging Face folder, sharded or not; FOLDER/pytorch_model.bin too
FILE.pth, .pt, .bin                    a PyTorch state dict, read with weights_only=True (needs torch)
FILE.npz                               Google's, bfloat16 or float32
FILE.onnx                              initializers of a graph that PyTorch exported (needs onnx)
"""

from __future__ import annotations

import functools
import importlib
import json
import mmap
import os
import pathlib
import struct
import types
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from jaxtyping import UInt8

from ne_jax.errors import UserError
from ne_jax.files import sha256_of

_TORCH = (".pth", ".pt", ".bin", ".tar")
ENDINGS = (".safetensors", ".npz", ".onnx", *_TORCH)
# What training scripts wrap a state dict in.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema")
# What other packages' readers raise for bytes that are cut or changed.
_BROKEN = (
    AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_WEIGHTS = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin")


class TensorFile(NamedTuple):
    """An opened checkpoint.

    files: what its bytes lie in. shapes: tensor's name -> shape. read: name -> the tensor, on the host; safe in threads.
    """

    files: tuple[pathlib.Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]

    def digest(self) -> Callable[[], str]:
        """SHA-256 of the file (of the files' hashes, in order, if there are several), taken when it is first asked for, because it
        takes as long as reading. It raises UserError if the files were changed in between."""
        known = [_state(path) for path in self.files]

        @functools.cache
        def digest() -> str:
            found = sha256_of(self.files)
            changed = [path for path, state in zip(self.files, known, strict=True) if _state(path) != state]
            if changed:
                raise UserError(f"checkpoint {changed[0]} was changed after it was loaded; load it again")
            return found

        return digest

    def sha256(self) -> str:
        """The digest, taken now."""
        return self.digest()()


def _state(path: pathlib.Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def open_tensors(path: str | os.PathLike) -> TensorFile:
    """The checkpoint at `path`. Raises UserError for one that is missing, truncated, of another kind, or holds code."""
    path = pathlib.Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    if path.name.endswith(".index.json"):
        return _open_sharded(path)
    ending = path.suffix.lower()
    opener = {".safetensors": _open_safetensors, ".npz": _open_npz, ".onnx": _open_onnx}.get(ending)
    opener = _open_torch if ending in _TORCH else opener
    if opener is None:
        raise UserError(f'checkpoint {path}: ending "{ending}" is unknown; give .safetensors, .pth, .npz or .onnx')
    return opener(path)


def beside(path: str | os.PathLike) -> dict[str, dict]:
    """The JSON files that publishers put beside weights: "preprocessor_config.json" and "config.json", those that exist."""
    path = pathlib.Path(path)
    folder = path if path.is_dir() else path.parent
    found = {}
    for name in ("preprocessor_config.json", "config.json"):
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
        raise UserError(f"checkpoint {path}: not a whole JSON file ({_line(error)}); fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"checkpoint {path}: holds no JSON object; fetch it again")
    return value


def _line(error: Exception) -> str:
    """What an error of another package says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _optional(module: str, package: str, path: pathlib.Path) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"checkpoint {path}: reading it needs {package}; pip install {package}") from error


def _as_float32(tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype.kind == "V" and tensor.dtype.itemsize == 2:  # NumPy writes bfloat16 as two nameless bytes
        tensor = tensor.view(ml_dtypes.bfloat16)
    return tensor if tensor.dtype == np.float32 else tensor.astype(np.float32)


def _open_safetensors(path: pathlib.Path) -> TensorFile:
    try:
        file = safetensors.safe_open(path, framework="numpy")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 no mapping
    except safetensors.SafetensorError as error:
        raise UserError(f"checkpoint {path}: not a whole safetensors file ({_line(error)}); fetch it again") from error
    mapped = _mapped(path)
    length = int.from_bytes(mapped[:8].tobytes(), "little")
    header = json.loads(mapped[8 : 8 + length].tobytes())  # `safe_open` has checked it; it copies tensors, views do not

    def read(name: str) -> np.ndarray:
        if header[name]["dtype"] != "F32":
            return _as_float32(file.get_tensor(name))
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
    return TensorFile(files, shapes, lambda name: everywhere[name].read(name))


def _open_torch(path: pathlib.Path) -> TensorFile:
    import pickle

    torch = _optional("torch", "torch", path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path}: holds more than tensors, or is no PyTorch file; it was not read, because reading it would run "
            "code; export its state dict as safetensors"
        ) from error
    except _BROKEN as error:
        raise UserError(f"checkpoint {path}: not a whole PyTorch file ({_line(error)}); fetch it again") from error
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"checkpoint {path}: no state dict, a mapping of names to tensors; export one")
    tensors = {name.removeprefix("module."): value for name, value in found.items()}  # of data-parallel training
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    return TensorFile((path,), shapes, lambda name: tensors[name].detach().float().numpy())


def _open_npz(path: pathlib.Path) -> TensorFile:
    try:
        archive = zipfile.ZipFile(path)
        shapes = {name.removesuffix(".npy"): _npy_shape(archive, name) for name in archive.namelist()}
    except _BROKEN as error:
        raise UserError(
            f"checkpoint {path}: not a whole npz file of plain arrays ({_line(error)}); fetch it again"
        ) from error

    def read(name: str) -> np.ndarray:
        try:
            with np.load(path, allow_pickle=False) as file:
                return _as_float32(file[name])
        except _BROKEN as error:
            raise UserError(f"checkpoint {path}: {name} cannot be read ({_line(error)}); fetch it again") from error

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


def _open_onnx(path: pathlib.Path) -> TensorFile:
    """Initializers by name. PyTorch's exporter renames what it folds: weights of linear layers, transposed, and slices of embeddings.
    These get the path of the node that reads them: "encoder.fc1.weight", turned back, and "embeddings.Concat_3"."""
    onnx = _optional("onnx", "onnx", path)
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
        entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
        apart = sorted({entry.value for entry in entries if entry.key == "location"})
        onnx.load_external_data_for_model(model, str(path.parent))
        graph = model.graph
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        places = {name: (name, False) for name in initializers if not name.startswith("onnx::")}
        for node in graph.node:
            module = node.name.strip("/").replace("/", ".")
            for name in node.input:
                if name in initializers and name.startswith("onnx::"):
                    linear = node.op_type == "MatMul"
                    places[f"{module.rpartition('.')[0]}.weight" if linear else module] = (name, linear)
    except (DecodeError, onnx.checker.ValidationError, *_BROKEN) as error:
        raise UserError(f"checkpoint {path}: not a whole ONNX file ({_line(error)}); fetch it again") from error
    if not places:
        raise UserError(
            f"checkpoint {path}: the graph holds no weights; fetch it again, or export it with its parameters"
        )

    def read(name: str) -> np.ndarray:
        source, turned = places[name]
        try:
            tensor = _as_float32(onnx.numpy_helper.to_array(initializers[source]))
        except _BROKEN as error:
            raise UserError(f"checkpoint {path}: {name} cannot be read ({_line(error)}); fetch it again") from error
        return tensor.T if turned else tensor

    shapes = {name: tuple(initializers[source].dims) for name, (source, _) in places.items()}
    files = (path, *(path.parent / place for place in apart))
    return TensorFile(files, {n: s[::-1] if places[n][1] else s for n, s in shapes.items()}, read)
