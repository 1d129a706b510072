"""Port a published checkpoint: python scripts/port_checkpoint.py --model=vit_b16 --source=PATH --out=DIR

--source: a Hugging Face folder or Hub id, safetensors (sharded too), .pth, Google's .npz, an .onnx graph that PyTorch exported, or
"package:NAME/PATH". Checks that every leaf is filled and every tensor used, prints what it found, and with --out writes the whole
state as an orbax folder, which `load_model` and `config.models` take as a checkpoint.
Exit status: 0 done, 2 a checkpoint that does not fit, or another mistake, told in one line; 130 or 143 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import sys

import jax
import numpy as np
from absl import app, flags, logging
from flax import nnx

from ne_jax.core.first_layer import FirstLayer
from ne_jax.errors import UserError
from ne_jax.models.loading import load_model, save_model
from ne_jax.models.model import Model
from ne_jax.stages import stop

_MODEL = flags.DEFINE_string("model", None, "variant, such as vit_b16 or resnet50", required=True)
_SOURCE = flags.DEFINE_string("source", None, "the published checkpoint", required=True)
_OUT = flags.DEFINE_string(
    "out", None, "new folder for the ported checkpoint; without it the checkpoint is only checked"
)
_WEIGHTS = flags.DEFINE_string("weights", None, "which state dict of a PyTorch file that holds several")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "side of the input in pixels, if not the variant's")
_CUT = 0.01


def first_layer_summary(layer: FirstLayer) -> dict[str, int | float]:
    """d and M, rank of the d x M matrix of one window, and k: directions with sigma at most 1 % of the largest."""
    matrix = np.asarray(layer.matrix, np.float64)
    outputs, d = matrix.shape
    sigma = np.pad(np.linalg.svd(matrix, compute_uv=False), (0, max(0, d - outputs)))
    rank = int(np.sum(sigma > max(d, outputs) * np.finfo(np.float32).eps * sigma[0]))
    return {"d": d, "M": outputs, "rank": rank, "k": int(np.sum(sigma <= _CUT * sigma[0])), "sigma_1": float(sigma[0])}


def describe(model: Model) -> str:
    """The port in a few lines."""
    sizes = {"parameters": nnx.Param, "BatchNorm statistics": nnx.BatchStat}
    counts = {
        what: sum(leaf.size for leaf in jax.tree.leaves(model.state.filter(kind))) for what, kind in sizes.items()
    }
    layer, found = model.first_layer, first_layer_summary(model.first_layer)
    windows = "patches" if layer.has_patches else f"windows that overlap (stride {layer.strides[0]})"
    lines = [
        f"{model.architecture} from {model.publisher} names",
        "; ".join(f"{count:,} {what}" for what, count in counts.items() if count),
        f"SHA-256 of the source {model.sha256}",
        f"input {model.preprocess.image_shape}; {model.num_classes or 'no'} classes; {model.preprocess}",
        f"first layer: {windows} {layer.window}, d = {found['d']} numbers -> M = {found['M']} outputs, rank {found['rank']}, "
        f"k = {found['k']} directions at most {_CUT:.0%} of sigma_1 = {found['sigma_1']:.3g}",
        *model.notes,
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Port, describe, and write."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]}; every option starts with --")
    model = load_model(_MODEL.value, _SOURCE.value, image_size=_IMAGE_SIZE.value, weights=_WEIGHTS.value)
    if model.graphdef is None:
        raise UserError(f"{_MODEL.value} is no Flax network: its own file is its checkpoint, there is nothing to port")
    print(describe(model))
    if _OUT.value:
        save_model(model, _OUT.value)
        print(f"written: {_OUT.value}")


if __name__ == "__main__":
    stop.watch()
    stop.begins_anew()
    logging.set_verbosity(logging.ERROR)  # what loading has to say is printed with the rest
    try:
        app.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
