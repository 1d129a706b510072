"""Train the small Fashion-MNIST models that ne_jax ships: vit_a, vit_b, resnet_a, resnet_b, vit_a_tuned, convnext_a.

    python scripts/train_samples.py --data=/usr/share/datasets/fashion-mnist --workdir=runs/train vit_a resnet_a

`--data` is a folder with the four published .gz files (Debian's package dataset-fashion-mnist installs them there), or
"tfds" to read them with TensorFlow Datasets. A run that was killed goes on where it was: give the same command again. The
result is WORKDIR/NAME.safetensors beside NAME.json (recipe, seed, curve, seconds); copy both into
ne_jax/assets/checkpoints to ship them.

The ViTs keep their patch embedding as it was drawn, as MoCo v3 does to train ViTs stably (arXiv 2104.02057); vit_a_tuned trains
it too. WORKSPACE_NOTES.md says what a learned patch embedding changes.

Recipe: AdamW with cosine decay and warm-up, label smoothing .05, random left-right flips and shifts of up to 4 pixels at
112 x 112, float32. Time on 2 CPU cores: 10 minutes a ViT or a ResNet, 1 minute the tuned one; 15 on 1 core the ConvNeXt.

The ConvNeXt's branches start at full strength (`branch_scale=1`): published ones start at 1e-6 and are trained for 300 epochs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from absl import app, flags, logging
from flax import nnx
from PIL import Image
from tqdm import tqdm

from ne_jax.data import fashion_mnist
from ne_jax.data.preprocess import to_pixels
from ne_jax.models import registry
from ne_jax.models.families import convnext
from ne_jax.models.porting import checkpoints, tensor_files

_DATA = flags.DEFINE_string("data", None, "folder with the published .gz files, or 'tfds'", required=True)
_WORKDIR = flags.DEFINE_string("workdir", "runs/train", "where checkpoints and results go")
_SAVE_EVERY = 200  # steps


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a sample is trained; together with this file, all that its weights depend on."""

    architecture: str
    seed: int
    epochs: int
    learning_rate: float
    batch_size: int
    weight_decay: float = 0.05
    start: str | None = None  # name of the sample to fine-tune
    stem_rate: float = 1  # the first layer's learning rate against that of the rest; 0 leaves it as it was drawn
    branch_scale: float | None = None  # where a ConvNeXt's layer scales start, instead of 1e-6


RECIPES = {
    "vit_a": Recipe("vit_fashion", seed=1, epochs=8, learning_rate=1e-3, batch_size=64, stem_rate=0),
    "vit_b": Recipe("vit_fashion", seed=2, epochs=8, learning_rate=1e-3, batch_size=64, stem_rate=0),
    "resnet_a": Recipe("resnet_fashion", seed=3, epochs=3, learning_rate=3e-3, batch_size=128),
    "resnet_b": Recipe("resnet_fashion", seed=4, epochs=3, learning_rate=3e-3, batch_size=128),
    "vit_a_tuned": Recipe("vit_fashion", seed=5, epochs=1, learning_rate=2e-4, batch_size=64, start="vit_a"),
    "convnext_a": Recipe("convnext_fashion", seed=6, epochs=3, learning_rate=2e-3, batch_size=64, branch_scale=1),
}


def load_split(split: str, source: str, preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Images at the models' input size (uint8) and labels."""
    if source == "tfds":
        import tensorflow_datasets as tfds

        rows = tfds.data_source("fashion_mnist", split=split)
        images, labels = zip(*((row["image"][..., 0], row["label"]) for row in rows), strict=True)
        images, labels = np.stack(images), np.asarray(labels, np.int32)
    else:
        images, labels = fashion_mnist.load(split, source)
    return np.stack([to_pixels(Image.fromarray(image), preprocess) for image in images]), labels


def augment(key: jax.Array, images: jax.Array, reach: int = 4) -> jax.Array:
    """Random flips and shifts by up to `reach` pixels, zeros (the data's background) coming in."""

    def one(key, image):
        flip, shift = jax.random.split(key)
        image = jnp.where(jax.random.bernoulli(flip), image[:, ::-1], image)
        offset = jax.random.randint(shift, (2,), 0, 2 * reach + 1)
        padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)))
        return jax.lax.dynamic_slice(padded, (offset[0], offset[1], 0), image.shape)

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)


def stem_mask(params):
    """True for the leaves of the first layer."""
    return nnx.map_state(lambda path, _: path[0] == "stem", params)


def set_branch_scale(model, scale: float) -> None:
    """Let every block of a ConvNeXt add `scale` times its branch."""
    for _, module in nnx.iter_graph(model):
        if isinstance(module, convnext.Block):
            module.gamma[...] = jnp.full_like(module.gamma[...], scale)


def make_step(graphdef, preprocess, optimizer, seed: int):
    """One jitted step of training: state, uint8 images, labels -> state, loss."""
    mean, std = jnp.array(preprocess.mean), jnp.array(preprocess.std)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, images, labels):
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        inputs = (augment(key, images.astype(jnp.float32) / 255) - mean) / std

        def loss_fn(params):
            model = nnx.merge(graphdef, params, state["rest"], copy=True)
            targets = optax.smooth_labels(jax.nn.one_hot(labels, 10), 0.05)
            loss = optax.softmax_cross_entropy(model(inputs), targets).mean()
            return loss, nnx.split(model, nnx.Param, ...)[2]

        (loss, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"])
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "rest": rest, "opt": opt, "step": state["step"] + 1}, loss

    return step


def accuracy(model, preprocess, images: np.ndarray, labels: np.ndarray, batch: int = 500) -> float:
    """Share of images that the model classifies rightly, in evaluation mode."""
    model.eval()
    graphdef, state = nnx.split(model)
    mean, std = jnp.array(preprocess.mean), jnp.array(preprocess.std)
    predict = jax.jit(lambda s, x: nnx.merge(graphdef, s)((x.astype(jnp.float32) / 255 - mean) / std).argmax(-1))
    hits = sum(
        (predict(state, images[i : i + batch]) == labels[i : i + batch]).sum() for i in range(0, len(labels), batch)
    )
    return float(hits) / len(labels)


def train(name: str, recipe: Recipe, source: str, workdir: pathlib.Path) -> None:
    """Train `name` and write its checkpoint and note into `workdir`; goes on where a former run was killed."""
    family, config = registry.find(recipe.architecture)
    keys = next(iter(family.formats.values())).keys(config)
    preprocess = dataclasses.replace(registry.FASHION, size=config.image_size, resize_to=config.image_size)
    model = family.build(config, rngs=nnx.Rngs(recipe.seed))
    if recipe.branch_scale is not None:
        set_branch_scale(model, recipe.branch_scale)
    if recipe.start:
        file = tensor_files.open_tensors(workdir / f"{recipe.start}.safetensors")
        fmt = next(iter(family.formats.values()))
        nnx.update(model, checkpoints.port(nnx.state(model), fmt, keys, file, recipe.start)[0])
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    images, labels = load_split("train", source, preprocess)
    steps_per_epoch = len(labels) // recipe.batch_size
    steps = steps_per_epoch * recipe.epochs
    schedule = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, steps // 20, steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.99, weight_decay=recipe.weight_decay),
        optax.masked(optax.scale(recipe.stem_rate), stem_mask(params)),
    )
    state = {"params": params, "rest": rest, "opt": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}
    step_fn = make_step(graphdef, preprocess, optimizer, recipe.seed)

    log = workdir / f"{name}.curve.jsonl"
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager((workdir / name).absolute(), options=options) as manager:
        if manager.latest_step() is not None:
            state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(state))
        first, start = int(state["step"]), time.monotonic()
        for index in tqdm(range(first, steps), initial=first, total=steps, desc=name, mininterval=10):
            epoch, position = divmod(index, steps_per_epoch)
            order = np.random.default_rng((recipe.seed, epoch)).permutation(len(labels))
            rows = order[position * recipe.batch_size : (position + 1) * recipe.batch_size]
            state, loss = step_fn(state, images[rows], labels[rows])
            if (index + 1) % _SAVE_EVERY == 0 or index + 1 == steps:
                row = {"step": index + 1, "loss": round(float(loss), 4), "seconds": round(time.monotonic() - start)}
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                manager.save(index + 1, args=ocp.args.StandardSave(state))

    model = nnx.merge(graphdef, state["params"], state["rest"])
    score = accuracy(model, preprocess, *load_split("test", source, preprocess))
    curve = {row["step"]: row for row in map(json.loads, log.read_text().splitlines())}  # a resumed run repeats rows
    note = {"name": name, "recipe": dataclasses.asdict(recipe), "test_accuracy": score, "curve": list(curve.values())}
    checkpoints.export(nnx.state(model), keys, workdir / f"{name}.safetensors", {"format": "pt"})
    (workdir / f"{name}.json").write_text(json.dumps(note, indent=1) + "\n")
    print(f"{name}: test accuracy {score:.4f}, n = 10,000")


def main(argv: list[str]) -> None:
    """Train the samples named, or all."""
    logging.set_verbosity(logging.WARNING)  # orbax tells every step of every save
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    for name in argv[1:] or list(RECIPES):
        train(name, RECIPES[name], _DATA.value, workdir)


if __name__ == "__main__":
    app.run(main)
