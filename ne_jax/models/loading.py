"""`load_model`: a variant's name and a published checkpoint, made into a `Model`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from ne_jax.core.first_layer import FirstLayer
from ne_jax.data import package_files
from ne_jax.data import preprocess as preprocessing
from ne_jax.data.local_path import expanded
from ne_jax.data.preprocess import Preprocess
from ne_jax.data.publishers_rules import from_files
from ne_jax.errors import UserError
from ne_jax.models.foreign import torch_spec
from ne_jax.models.foreign.adapted_model import Adapted
from ne_jax.models.foreign.from_onnx import from_onnx
from ne_jax.models.foreign.from_torch import from_torch as adapted_torch
from ne_jax.models.model import Model, Outputs, flax_forward
from ne_jax.models.porting import checkpoints, orbax_store, tensor_files
from ne_jax.models.porting.choose_format import Fit, as_published, choose, differences, fitting
from ne_jax.models.porting.position_grid import check_grid
from ne_jax.models.porting.tensor_files import TensorFile
from ne_jax.models.registry import ASSETS, FASHION, SAMPLES, Family, find

_PACKAGE = "package:"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class _Request(NamedTuple):
    """What the caller of `load_model` asked for, names looked up."""

    architecture: str
    family: Family
    config: Any
    preprocess: Preprocess | None
    image_size: int | None
    label: str
    weights: str | None
    sharding: jax.sharding.Sharding | None


def load_model(
    name: str,
    checkpoint: str | os.PathLike | None = None,
    *,
    label: str | None = None,
    image_size: int | None = None,
    preprocess: Preprocess | None = None,
    weights: str | None = None,
    cache: str | os.PathLike | None = None,
    sharding: jax.sharding.Sharding | None = None,
) -> Model:
    """The model `name` with the weights of `checkpoint`.

    name: a variant ("vit_b16", "resnet50"; `registry.names()` lists them), a shipped sample ("vit_a", which brings its own
        checkpoint), or another network: "onnx:" with the graph as checkpoint, "torch:timm/NAME", "torch:transformers/FOLDER",
        "torch:package.module:function".
    checkpoint: as published: a Hugging Face folder, safetensors, .pth, Google's .npz, an .onnx graph that PyTorch exported, a folder
        that scripts/port_checkpoint.py wrote, "package:NAME/PATH" for a file that an installed package carries, or the id of a
        Hugging Face Hub repository (needs huggingface_hub and network).
    label: what the model is called in tables; `name` unless given.
    image_size: side of the input in pixels, if not the variant's; position embeddings are resized.
    preprocess: instead of what the files beside the weights say, or else the publisher's.
    weights: which state dict, of a PyTorch file that holds several, such as "state_dict_ema".
    cache: folder that keeps ported networks, by the hash of their source.
    sharding: where the weights go; the default device unless given.

    Raises UserError for an unknown name, no checkpoint, or a checkpoint that does not fit: every fault is named.
    """
    if name.startswith(("onnx:", "torch:")):
        return _adapted(name, checkpoint, label or name, preprocess, weights, image_size)
    architecture = SAMPLES.get(name, name)
    family, config = find(architecture)
    if checkpoint is None and name not in SAMPLES:
        raise UserError(f"model {name} needs a checkpoint: the published file, as it is")
    path = ASSETS / f"{name}.safetensors" if checkpoint is None else _local(checkpoint)
    config = config if image_size is None else _resized(architecture, config, image_size)
    if architecture.endswith("_fashion"):
        preprocess = preprocess or FASHION
    request = _Request(architecture, family, config, preprocess, image_size, label or name, weights, sharding)
    return (_from_store if orbax_store.is_store(path) else _published)(path, request, cache)


def save_model(model: Model, path: str | os.PathLike) -> None:
    """Write a ported model as an orbax folder that `load_model` reads. Raises UserError if `path` exists."""
    if model.graphdef is None:
        raise UserError(f"{model.name} is no Flax network; its own file is its checkpoint")
    note = orbax_store.Note(
        architecture=model.architecture,
        publisher=model.publisher,
        image_size=model.preprocess.size,
        num_classes=model.num_classes,
        preprocess=dataclasses.asdict(model.preprocess),
        sha256=model.sha256,
        notes=list(model.notes),
    )
    orbax_store.save(expanded(os.fspath(path), "path"), model.state, note)


def _resized(architecture: str, config: Any, image_size: int) -> Any:
    patch = getattr(config, "patch_size", 1)
    if image_size < 32 or image_size % patch:
        multiple = f", a multiple of {patch}" if patch > 1 else ""
        raise UserError(f"image_size {image_size} does not fit {architecture}: give at least 32 pixels{multiple}")
    return dataclasses.replace(config, image_size=image_size)


def _local(checkpoint: str | os.PathLike) -> pathlib.Path:
    """A path of this machine; finds a file in an installed package, and fetches a Hub id."""
    if os.fspath(checkpoint).startswith(_PACKAGE):
        return package_files.find(os.fspath(checkpoint).removeprefix(_PACKAGE))
    path = pathlib.Path(expanded(os.fspath(checkpoint), "checkpoint"))
    if path.exists() or path.suffix in tensor_files.ENDINGS or not _HUB_ID.fullmatch(os.fspath(checkpoint)):
        return path
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise UserError(
            f"checkpoint {checkpoint}: no such file; if a Hugging Face Hub id is meant, pip install huggingface_hub"
        ) from error
    patterns = ["*.safetensors", "*.safetensors.index.json", "config.json", "*processor_config.json"]
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(os.fspath(checkpoint), allow_patterns=patterns))
    except (OSError, ValueError) as error:  # its network errors are OSErrors
        raise UserError(
            f"checkpoint {checkpoint}: no such file, and not fetched from the Hugging Face Hub ({type(error).__name__}); "
            "fetch it where there is network, and give its folder"
        ) from error


def _published(path: pathlib.Path, request: _Request, cache: str | os.PathLike | None) -> Model:
    """Port a published checkpoint, or restore what `cache` has of it."""
    file, beside = tensor_files.open_tensors(path, request.weights), tensor_files.beside(path)
    fit = choose(request.family, request.config, file)
    told = request.preprocess or _beside(beside, fit.config.image_size)
    preprocess = told or fit.format.preprocess(fit.config)
    digest = file.digest()
    if cache is not None:
        name = (
            f"{request.architecture}-{fit.config.image_size}-{fit.publisher}-{digest()[:32]}{_suffix(request.weights)}"
        )
        place = pathlib.Path(expanded(os.fspath(cache), "cache")) / name
    kept = cache is not None and orbax_store.is_store(place)
    if kept:
        model = _restored(place, request._replace(preprocess=preprocess))
    else:
        graphdef, state, notes = _ported(f"checkpoint {path} for {request.architecture}", request, fit, file)
        state = state if request.sharding is None else jax.device_put(state, request.sharding)
        model = _model(request, fit, graphdef, state, preprocess, digest, notes)
    _say(path, check_grid(request.family, fit, file, beside, f"checkpoint {path}"))
    _say(
        path,
        ""
        if told
        else f"no file beside it says how images are prepared; taken is what {fit.publisher} does: {preprocess}",
    )
    if cache is not None and not kept:
        save_model(model, place)
    return model


def _say(path: pathlib.Path, what: str) -> None:
    if what:
        logging.warning("checkpoint %s: %s", path, what)


def _suffix(weights: str | None) -> str:
    """For the name of a folder; one file may hold several networks."""
    return f"-{hashlib.sha256(weights.encode()).hexdigest()[:8]}" if weights else ""


def _beside(files: Mapping[str, dict], image_size: int) -> Preprocess | None:
    """Preprocessing that the files beside the weights ask for, at the network's input size."""
    told = from_files(files)
    if told is None:
        return None
    return dataclasses.replace(told, size=image_size, resize_to=round(told.resize_to * image_size / told.size))


def _ported(label: str, request: _Request, fit: Fit, file: TensorFile) -> tuple[nnx.GraphDef, Any, list[str]]:
    graphdef, abstract = request.family.abstract(fit.config)
    try:
        unnamed = sorted(checkpoints.flat_leaves(abstract).keys() - fit.keys.keys())
        if unnamed:  # a publisher who never stored this variant
            raise checkpoints.Misfit(label, f"{', '.join(unnamed)} missing: {fit.publisher} has no names for them")
        state, fitted = checkpoints.port(abstract, fit.format, fit.keys, file, label)
    except checkpoints.Misfit as error:
        others = [name for name in fitting(file) if name != request.architecture]
        hint = f"; the file fits {' or '.join(others)}" if others else ""
        raise UserError(f"{error}{hint}") from error
    notes = differences(request.architecture, fit, file, fitted)
    for note in notes:
        logging.warning("%s: %s", label, note)
    return graphdef, state, notes


def _from_store(path: pathlib.Path, request: _Request, cache: str | os.PathLike | None) -> Model:
    """A model that its owner ported; there is nothing to keep in `cache`."""
    if request.weights:
        raise UserError(f"checkpoint {path}: holds one set of weights; leave weights out")
    return _restored(path, request)


def _restored(path: pathlib.Path, request: _Request) -> Model:
    """A model from an orbax folder of ours."""
    note = orbax_store.read_note(path)
    if note.architecture != request.architecture:
        raise UserError(f"checkpoint {path} is of {note.architecture}, not {request.architecture}")
    if request.image_size not in (None, note.image_size):
        raise UserError(f"checkpoint {path} is for images of {note.image_size} pixels; port its source again")
    config = dataclasses.replace(request.config, image_size=note.image_size, num_classes=note.num_classes)
    fit = as_published(request.family, config, note.publisher)
    graphdef, abstract = request.family.abstract(fit.config)
    label = f"checkpoint {path} for {request.architecture}"
    state = orbax_store.restore(path, abstract, request.sharding, label)
    preprocess = request.preprocess or preprocessing.from_fields(note.preprocess)
    return _model(request, fit, graphdef, state, preprocess, lambda: note.sha256, note.notes)


def _model(
    request: _Request,
    fit: Fit,
    graphdef: nnx.GraphDef,
    state: Any,
    preprocess: Preprocess,
    digest: Callable[[], str],
    notes: list[str],
) -> Model:
    stem = nnx.merge(graphdef, state).stem
    takes = (fit.config.image_size,) * 2 + stem.kernel.shape[2:3]
    if preprocess.image_shape != takes:
        raise UserError(
            f"{request.label}: the preprocessing gives images {preprocess.image_shape}, the network takes {takes}; "
            "give a preprocess of that size, or image_size"
        )
    padding = stem.padding if isinstance(stem.padding, str) else tuple(stem.padding)
    layer = FirstLayer(stem.kernel[...], stem.strides, padding, preprocess.mean, preprocess.std)
    return Model(
        request.label, request.architecture, preprocess, layer, digest, fit.config.num_classes,
        flax_forward(graphdef, state, layer), fit.publisher, graphdef, state, tuple(notes),
    )  # fmt: skip


def _adapted(
    name: str,
    checkpoint: str | os.PathLike | None,
    label: str,
    preprocess: Preprocess | None,
    weights: str | None,
    image_size: int | None,
) -> Model:
    """A network of another framework, behind the same functions."""
    kind, _, spec = name.partition(":")
    if image_size is not None:
        raise UserError(f"model {name}: image_size is for networks of this package; give preprocess with its size")
    path = None if checkpoint is None else _local(checkpoint)
    if weights and kind == "onnx":
        raise UserError(f"model {name}: a graph holds one set of weights; leave weights out")
    if kind == "torch":
        adapted = torch_spec.open_torch(spec, path, preprocess, weights)
    elif path is None and not spec:
        raise UserError("model onnx: needs a graph: give its path as the checkpoint, or as onnx:PATH")
    else:
        adapted = from_onnx(path or _local(spec), preprocess=preprocess)
    return _foreign(adapted, name, label)


def from_torch(module: Any, first: str | None = None, *, preprocess: Preprocess, label: str = "torch") -> Model:
    """A `torch.nn.Module` of the caller's as a `Model`.

    module: takes normalised NCHW images. first: dotted name of its first convolution; found by running it unless given.
    preprocess: what it wants done to an image. The hash is empty: there is no file.
    Raises UserError, in one line, for a module whose first layer is no plain convolution of the image.
    """
    return _foreign(adapted_torch(module, first, preprocess=preprocess), label, label)


def _foreign(adapted: Adapted, architecture: str, label: str) -> Model:
    layer = FirstLayer(adapted.first_layer_kernel, adapted.strides, adapted.padding, adapted.mean, adapted.std)

    def forward(pixels) -> Outputs:
        logits, features = adapted.forward(np.asarray(pixels))
        return Outputs(None if logits is None else jnp.asarray(logits), jnp.asarray(features))

    return Model(label, architecture, adapted.preprocess, layer, lambda: adapted.sha256, adapted.num_classes, forward)
