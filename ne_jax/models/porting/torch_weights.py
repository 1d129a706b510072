"""PyTorch's own files: the state dict in a .pth, found inside of what training scripts wrap around it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from ne_jax.errors import UserError
from ne_jax.models.porting.tensor_file import BROKEN, TensorFile, as_float32, line, optional, refused

# What training scripts call the state dict of a network, or of one of several.
_KNOWN = (
    "state_dict", "model", "model_state_dict", "net", "network", "module", "params", "teacher", "student", "ema", "model_ema",
    "state_dict_ema", "ema_state_dict", "params_ema",
)  # fmt: skip
_DEEPEST = 3  # mappings inside of each other


def open_torch(path: pathlib.Path, weights: str | None = None) -> TensorFile:
    """The state dict in a file, read with weights_only=True. weights: which one, where the file holds several; "a.b" is b inside a.

    Raises UserError for a file that is cut, or holds code; and, with the choice there is, for one that holds no state dict, or several
    that might be meant.
    """
    import pickle

    torch = optional("torch", "torch", path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path}: holds more than tensors, or is no PyTorch file; it was not read, because reading it would run "
            "code; export its state dict as safetensors"
        ) from error
    except BROKEN as error:
        raise UserError(f"checkpoint {path}: not a whole PyTorch file ({line(error)}); fetch it again") from error
    tensors = _chosen(torch, found, weights, path)
    averaged = {name for name in tensors if name == "n_averaged"}  # a count, of torch.optim.swa_utils.AveragedModel
    strange = [name for name in tensors if not isinstance(name, str)]
    if strange:
        raise UserError(
            f"checkpoint {path}: {strange[0]!r} is no name of a tensor; export a state dict of named tensors"
        )
    tensors = {name: tensor for name, tensor in tensors.items() if name not in averaged}
    return TensorFile(
        (path,), {name: tuple(value.shape) for name, value in tensors.items()}, _reader(torch, tensors, path)
    )


def _reader(torch: Any, tensors: Mapping[str, Any], path: pathlib.Path) -> Any:
    def read(name: str, integers: bool = False) -> np.ndarray:
        tensor, place = tensors[name].detach(), f"checkpoint {path}: {name}"
        told = {
            "has no numbers (it is on the device meta)": tensor.is_meta,
            f"is sparse ({tensor.layout}); export it dense": tensor.layout != torch.strided,
            "is quantised; export its dequantised numbers": tensor.is_quantized,
        }
        for what in (what for what, is_so in told.items() if is_so):
            raise UserError(f"{place} {what}")
        try:
            if tensor.is_floating_point() and tensor.itemsize > 1:
                return as_float32(tensor.float().numpy(), place)
            if integers:
                return tensor.numpy()
        except BROKEN as error:
            raise UserError(f"{place} cannot be read ({line(error)}); fetch it again") from error
        raise refused(place, str(tensor.dtype).removeprefix("torch."))

    return read


def _chosen(torch: Any, found: Any, weights: str | None, path: pathlib.Path) -> Mapping[Any, Any]:
    """The state dict that is meant."""
    if _is_state_dict(torch, found):
        if weights:
            raise UserError(f"checkpoint {path}: holds one state dict and no {weights}; leave weights out")
        return found
    inside = dict(_state_dicts(torch, found, "", _DEEPEST))
    if weights:
        if weights not in inside:
            raise UserError(f"checkpoint {path}: holds no state dict {weights}; {_choice(inside)}")
        return inside[weights]
    usual = [name for name in inside if name.rpartition(".")[2] in _KNOWN]
    if len(usual) > 1:
        raise UserError(f"checkpoint {path}: holds {len(usual)} state dicts; {_choice(usual)}")
    if not usual:
        hint = f"; {_choice(inside)}" if inside else "; export one"
        raise UserError(f"checkpoint {path}: no state dict, a mapping of names to tensors{hint}")
    if len(inside) > 1:
        logging.warning("checkpoint %s: %s is taken, of %s", path, usual[0], ", ".join(inside))
    return inside[usual[0]]


def _choice(names: Any) -> str:
    shown = [f'"{name}"' for name in names]
    return f"choose by weights = {' or '.join(shown[:8])} (models.NAME.weights in a config)" if shown else "export one"


def _is_state_dict(torch: Any, value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(each, torch.Tensor) for each in value.values())


def _state_dicts(torch: Any, value: Any, prefix: str, deepest: int) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every state dict inside of a mapping, with its place, "model.ema"."""
    named = value.items() if isinstance(value, Mapping) and deepest else ()
    for name, each in ((name, each) for name, each in named if isinstance(name, str)):
        if _is_state_dict(torch, each):
            yield prefix + name, each
        else:
            yield from _state_dicts(torch, each, f"{prefix}{name}.", deepest - 1)
