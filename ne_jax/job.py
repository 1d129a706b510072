"""What the stages share: a config made into a model, a subspace and a source, and the places in the workdir."""

from __future__ import annotations

import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ne_jax import config as configs
from ne_jax import data, release
from ne_jax.errors import UserError
from ne_jax.models.loading import load_model
from ne_jax.models.model import Model
from ne_jax.noise_keys import load_secret
from ne_jax.pixels import to_float
from ne_jax.polyphase import PolyphaseSpectrum
from ne_jax.preprocess import from_fields
from ne_jax.recode import Design
from ne_jax.spectrum import Spectrum, spectrum
from ne_jax.subspace import Subspace, low_sensitivity


class Job(NamedTuple):
    """A run: where it happens, for whom, on what. feature_norm: median norm(T (x - mean)) of a few images."""

    config: ConfigDict
    workdir: pathlib.Path
    authorized: Model
    source: data.Source
    spectrum: Spectrum | PolyphaseSpectrum
    space: Subspace
    feature_norm: float

    def release_dir(self, release_format: str) -> pathlib.Path:
        """Where the release of a format lies."""
        return self.workdir / "releases" / release_format

    def design(self, release_format: str) -> Design:
        """The recoding design of a format."""
        if self.config.recode.design != "auto":
            return self.config.recode.design
        return {"float32": "gaussian", "png8": "boxed"}[release_format]

    def secret(self) -> bytes:
        """The secret that noise comes from."""
        return load_secret(pathlib.Path(self.config.recode.secret_file or self.workdir / "private" / "secret.key"))

    def sample_pixels(self, count: int = 64) -> np.ndarray:
        """Clean images, uint8, spread evenly over the source; broken ones left out."""
        indices = np.unique(np.linspace(0, len(self.source.names) - 1, count).astype(int))
        return _sample(self.source, self.authorized, indices)


def _sample(source: data.Source, model: Model, indices: np.ndarray) -> np.ndarray:
    reasons: list[str] = []
    found = [
        batch.pixels[batch.mask]
        for batch in data.batches(
            source, model.preprocess, len(indices), indices.tolist(), lambda _, why: reasons.append(why)
        )
    ]
    if not found:
        raise UserError(f"data: none of {len(indices)} sampled images can be read; the first: {reasons[0]}")
    return np.concatenate(found)


def load_named(config: ConfigDict, name: str) -> Model:
    """A model by its name in the config's `models`, or a shipped one."""
    if name in config.models:
        entry = config.models[name]
        unknown = sorted(set(entry.keys()) - {"architecture", "checkpoint", "image_size", "preprocess"})
        if unknown or "architecture" not in entry:
            what = f"{unknown[0]} is unknown" if unknown else "architecture is missing"
            raise UserError(f"models.{name}: {what}; give architecture, checkpoint, image_size or preprocess")
        rules = entry.get("preprocess")
        return load_model(
            entry.architecture,
            entry.get("checkpoint"),
            label=name,
            image_size=entry.get("image_size"),
            preprocess=None if rules is None else from_fields(rules.to_dict()),
            cache=config.cache or None,
        )
    return load_model(name)


def open_job(config: ConfigDict, workdir: pathlib.Path) -> Job:
    """Check the config, claim the workdir for it, load the authorized model and choose the subspace."""
    configs.check(config)
    _claim(config, workdir)
    source = data.open_source(config.data.kind, config.data.path, config.data.split, config.data.limit)
    model = load_named(config, config.authorized)
    values = spectrum(model.first_layer, model.preprocess.image_shape)
    sample = to_float(_sample(source, model, np.arange(min(64, len(source.names)))))
    norms = np.linalg.norm(np.asarray(jax.vmap(model.first_layer.response)(sample)).reshape(len(sample), -1), axis=-1)
    feature_norm = float(np.median(norms))
    rule = config.subspace
    space = low_sensitivity(values, rule.rule, rule.value, psnr_db=config.recode.psnr_db, feature_norm=feature_norm)
    return Job(config, workdir, model, source, values, space, feature_norm)


def _claim(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Write the config into a new workdir; refuse a workdir that was made with another."""
    path = workdir / "config.json"
    if path.is_file():
        difference = configs.first_difference(json.loads(path.read_text()), config)
        if difference:
            raise UserError(f"workdir {workdir} was made with another config ({difference}); give another --workdir")
    try:
        release.write_json(path, configs.leaves(config))
    except OSError as error:
        raise UserError(f"workdir {workdir}: cannot write ({error.strerror}); give another --workdir") from error
