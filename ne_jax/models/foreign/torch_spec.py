"""PyTorch modules by name, as a config can say them: "timm/NAME", "transformers/FOLDER", "package.module:function"."""

from __future__ import annotations

import difflib
import importlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ne_jax.data.local_path import expanded
from ne_jax.data.preprocess import Preprocess, from_timm
from ne_jax.data.publishers_rules import from_files
from ne_jax.errors import UserError
from ne_jax.models.foreign.adapted_model import Adapted, needed
from ne_jax.models.foreign.from_torch import from_torch
from ne_jax.models.porting.tensor_file import TensorFile, wrapping
from ne_jax.models.porting.tensor_files import beside, open_tensors

_BOOKKEEPING = "num_batches_tracked"  # BatchNorm's step counter, no part of the function


def open_torch(
    spec: str,
    checkpoint: str | os.PathLike | None = None,
    preprocess: Preprocess | None = None,
    weights: str | None = None,
) -> Adapted:
    """A PyTorch model by name, as a config file gives it; see `from_torch`. Nothing is downloaded.

    "timm/NAME": timm's architecture NAME with `checkpoint`; as many classes as its classifier has.
    "transformers/FOLDER": the image classifier saved in FOLDER.
    "package.module:function": what function() returns, with `checkpoint` if one is given. `preprocess` must be given.
    checkpoint: a file that `tensor_files.open_tensors` opens; every tensor must fit and none be left over.
    preprocess: what the model wants done to an image, when timm's data configuration, or FOLDER/preprocessor_config.json,
        is not to be used.
    weights: which state dict of the checkpoint, where that holds several.
    Raises UserError for any other form, an unknown name, a checkpoint that is absent or does not fit (it names which
    tensors), or no preprocessing.
    """
    kind, _, name = spec.partition("/")
    if kind == "timm" and name:
        return _open_timm(name, checkpoint, preprocess, weights)
    if kind == "transformers" and name:
        if checkpoint is not None or weights is not None:
            raise UserError(f'model "{spec}": its weights are in the folder; give neither checkpoint nor weights')
        return _open_transformers(pathlib.Path(expanded(name, "model transformers/")), preprocess)
    module_name, _, function = spec.partition(":")
    if not function or "/" in spec:
        raise UserError(
            f'model "{spec}" is unknown; give "timm/NAME", "transformers/FOLDER" or "package.module:function"'
        )
    return _open_function(module_name, function, checkpoint, preprocess, weights)


def _open_timm(
    name: str, checkpoint: str | os.PathLike | None, preprocess: Preprocess | None, weights: str | None
) -> Adapted:
    timm = needed("timm")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise UserError(f'timm has no model "{name}"' + (f"; did you mean {near[0]}?" if near else ""))
    if checkpoint is None:
        raise UserError(f'model "timm/{name}" needs a checkpoint: a .safetensors or .pth file in timm\'s names')
    opened = open_tensors(checkpoint, weights)
    known = timm.get_pretrained_cfg(name)
    weight = f"{known.classifier}.weight" if known else None
    classes = (
        {"num_classes": opened.shapes[weight][0]} if weight in opened.shapes else {}
    )  # a fine-tuned one has its own
    module = timm.create_model(name, pretrained=False, **classes)
    _fill(module, opened, f"checkpoint {checkpoint} for timm/{name}")
    preprocess = preprocess or from_timm(timm.data.resolve_model_data_config(module))
    return from_torch(module, None, preprocess=preprocess, sha256=opened.sha256())


def _open_transformers(folder: pathlib.Path, preprocess: Preprocess | None) -> Adapted:
    transformers = needed("transformers")
    needed("torch")
    label = f"model transformers/{folder}"
    if not (folder / "config.json").is_file():
        raise UserError(f"{label}: the folder has no config.json; save_pretrained makes one")
    weights = open_tensors(folder)
    if preprocess is None:
        preprocess = from_files(beside(folder))
        if preprocess is None:
            raise UserError(f"{label}: the folder has no preprocessor_config.json; add it or give preprocess")
    try:
        # trust_remote_code: code that lies in the folder is not run, and nobody is asked whether it may.
        module, report = transformers.AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{label} cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    faults = {"missing": report["missing_keys"], "surplus": report["unexpected_keys"]}
    faults["misshapen"] = [str(key[0]) for key in report["mismatched_keys"]]
    _refuse(faults, label)
    return from_torch(module, None, preprocess=preprocess, sha256=weights.sha256())


def _open_function(
    module_name: str,
    function: str,
    checkpoint: str | os.PathLike | None,
    preprocess: Preprocess | None,
    weights: str | None,
) -> Adapted:
    spec = f"{module_name}:{function}"
    torch = needed("torch")
    if preprocess is None:
        raise UserError(f'model "{spec}" needs preprocess: the size, mean and std that it wants')
    try:
        build = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f'model "{spec}" cannot be found ({error}); is it on PYTHONPATH?') from error
    module = build()
    if not isinstance(module, torch.nn.Module):
        raise UserError(f'model "{spec}" returns a {type(module).__name__}; it must return a torch.nn.Module')
    if checkpoint is None:
        return from_torch(module, None, preprocess=preprocess)
    opened = open_tensors(checkpoint, weights)
    _fill(module, opened, f"checkpoint {checkpoint} for {spec}")
    return from_torch(module, None, preprocess=preprocess, sha256=opened.sha256())


def _fill(module: Any, opened: TensorFile, label: str) -> None:
    """Load every tensor of a checkpoint into `module`. Raises UserError that names what does not fit."""
    torch = needed("torch")
    leaves = {name: leaf for name, leaf in module.state_dict().items() if not name.endswith(_BOOKKEEPING)}
    prefix = wrapping(leaves)  # a network of one part called "model", say, whose file has lost that name
    leaves = {name.removeprefix(prefix): leaf for name, leaf in leaves.items()}
    wanted = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    given = {name: shape for name, shape in opened.shapes.items() if not name.endswith(_BOOKKEEPING)}
    both = [name for name in wanted if name in given]
    misshapen = [f"{name} is {given[name]}, not {wanted[name]}" for name in both if given[name] != wanted[name]]
    missing, surplus = ([name for name in a if name not in b] for a, b in ((wanted, given), (given, wanted)))
    _refuse({"missing": missing, "surplus": surplus, "misshapen": misshapen}, label)
    counts = {name for name in both if not leaves[name].is_floating_point()}  # buffers such as a table of places
    read = {name: opened.read(name, integers=name in counts) for name in both}
    _refuse({"no whole numbers": [name for name in counts if read[name].dtype.kind == "f"]}, label)
    state = {name: torch.from_numpy(np.array(tensor)) for name, tensor in read.items()}
    _refuse({"NaN or infinite": [name for name, value in state.items() if not value.isfinite().all()]}, label)
    module.load_state_dict({prefix + name: tensor for name, tensor in state.items()}, strict=False)


def _refuse(faults: Mapping[str, Any], label: str) -> None:
    told = []
    for fault, names in faults.items():
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            told.append(f"{len(names)} {fault}: {', '.join(sorted(names)[:4])}{more}")
    if told:
        raise UserError(f"{label} does not fit: {'; '.join(told)}")
