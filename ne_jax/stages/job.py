"""What the stages share: a config made into a model, a subspace and a source, and the places in the workdir."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.linalg.cython_lapack  # noqa: F401  # the LAPACK that jaxlib calls: what is loaded later, no limit of threads would hold
from threadpoolctl import threadpool_limits

from ne_jax import config as configs
from ne_jax.core.first_layer import FirstLayer, together
from ne_jax.core.pixels import to_float
from ne_jax.core.polyphase import PolyphaseSpectrum
from ne_jax.core.rules import low_sensitivity
from ne_jax.core.spectrum import Spectrum, spectrum
from ne_jax.core.subspace import Subspace
from ne_jax.data import sources
from ne_jax.data.preprocess import from_fields
from ne_jax.errors import UserError
from ne_jax.models.loading import load_model
from ne_jax.models.model import Model
from ne_jax.recoding.design import Design
from ne_jax.recoding.designs import choose
from ne_jax.release import ledger, owner_files, signature
from ne_jax.release.formats import FORMATS
from ne_jax.stages import claim, multihost


class Job(NamedTuple):
    """A run: where it happens, for whom, on what. also: models authorized beside the first. surrogates: models that the design
    leads away. readers: gives those of the config, loaded once. feature_norm: median norm(T (x - mean)) of a few images.

    source: under the names that are released. lock: held while the job is.
    """

    config: configs.Config
    workdir: pathlib.Path
    authorized: Model
    also: tuple[Model, ...]
    surrogates: tuple[Model, ...]
    readers: Callable[[], tuple[Model, ...]]
    source: sources.Source
    spectrum: Spectrum | PolyphaseSpectrum
    space: Subspace
    feature_norm: float
    lock: multihost.Lock

    def release_dir(self, release_format: str) -> pathlib.Path:
        """Where the release of a format lies."""
        return self.workdir / "releases" / release_format

    @property
    def num_shards(self) -> int:
        """Shards of a release."""
        return -(-len(self.source.names) // self.config.release.shard_size)

    def shard(self, number: int) -> range:
        """Indices of the source images of a shard."""
        start = number * self.config.release.shard_size
        return range(start, min(start + self.config.release.shard_size, len(self.source.names)))

    def shard_of(self, index: int) -> int:
        """The number of the shard that a source image belongs to."""
        return index // self.config.release.shard_size

    def record(self, release_format: str, shard: int) -> pathlib.Path:
        """What is noted when a shard is written."""
        return self.workdir / "progress" / release_format / f"{shard:05d}.json"

    @property
    def private_dir(self) -> pathlib.Path:
        """What must not be released."""
        return self.workdir / "private"

    def design(self, release_format: str) -> Design:
        """The recoding design of a format."""
        return _design(self.config, release_format)

    def secret(self) -> bytes:
        """The secret that noise and opaque names come from."""
        return _secret(self.config, self.workdir)

    @property
    def ledger(self) -> pathlib.Path:
        """Which images were released in which artefact under the secret."""
        return ledger.place(_secret_file(self.config, self.workdir))

    def sample_pixels(self) -> np.ndarray:
        """At most 64 clean images, uint8, spread evenly over the source; broken ones left out."""
        return _sample(self.source, self.authorized)


def _design(config: configs.Config, release_format: str) -> Design:
    return choose(config.recode.design, FORMATS[release_format].dtype)


def _secret_file(config: configs.Config, workdir: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(config.recode.secret_file or workdir / "private" / owner_files.SECRET)


def _secret(config: configs.Config, workdir: pathlib.Path) -> bytes:
    return owner_files.load_secret(_secret_file(config, workdir))


def _sample(source: sources.Source, model: Model, count: int = 64) -> np.ndarray:
    indices = np.unique(np.linspace(0, len(source.names) - 1, count).astype(int))
    reasons: list[str] = []
    found = [
        batch.pixels[batch.mask]
        for batch in sources.batches(
            source, model.preprocess, len(indices), indices.tolist(), lambda _, why: reasons.append(why)
        )
    ]
    if not found:
        raise UserError(f"data: none of {len(indices)} sampled images can be read; the first: {reasons[0]}")
    return np.concatenate(found)


def load_named(config: configs.Config, name: str) -> Model:
    """A model by its name in the config's `models`, or a shipped one."""
    if name in config.models:
        entry = config.model(name)
        return load_model(
            entry.architecture,
            entry.checkpoint,
            label=name,
            image_size=entry.image_size,
            weights=entry.weights,
            preprocess=None if entry.preprocess is None else from_fields(entry.preprocess),
            cache=config.cache or None,
        )
    return load_model(name)


def open_job(config: configs.Config, workdir: pathlib.Path) -> Job:
    """Open everything that the config names, choose the subspace, and then claim the workdir: a mistake costs neither an image nor the
    workdir. Close the job's lock to let another run in; where this raises, it is closed."""
    _check_key(config, workdir)
    with contextlib.ExitStack() as held:
        lock = held.enter_context(claim.lock(config, workdir))
        known = claim.is_known(config, workdir)
        _agree_on_secret(config, workdir)
        source, former = _open_source(config, workdir)
        load = functools.cache(functools.partial(load_named, config))
        model, *also = map(load, (config.authorized, *config.also_authorized))
        needed = any(_design(config, name).needs_surrogates for name in config.release.formats)
        surrogates = tuple(map(load, config.recode.surrogates if needed else ()))
        readers = functools.cache(lambda: tuple(map(load, dict.fromkeys(config.readers))))
        if not known and multihost.first():
            readers()
        if multihost.several():
            for each in (model, *also, *surrogates):
                multihost.agree(f"checkpoint of {each.name}", bytes.fromhex(each.sha256))
        # How many threads the SVD has decides the last bits of the directions, and so of the files.
        with threadpool_limits(1, "blas"):
            values = jax.block_until_ready(spectrum(_layer(model, also), model.preprocess.image_shape))
        sample = to_float(_sample(source, model))
        responses = np.asarray(jax.vmap(model.first_layer.response)(sample)).reshape(len(sample), -1)
        norm = float(np.median(np.linalg.norm(responses, axis=-1)))
        rule = config.subspace
        space = low_sensitivity(values, rule.rule, rule.value, psnr_db=config.recode.psnr_db, feature_norm=norm)
        if multihost.first():
            claim.claim(config, workdir)
            owner_files.keep_names(workdir / "private", source.names, former)
        multihost.wait_for_first("config and names")
        held.pop_all()
    return Job(config, workdir, model, tuple(also), surrogates, readers, source, values, space, norm, lock)


def _agree_on_secret(config: configs.Config, workdir: pathlib.Path) -> None:
    """Make the secret where there is none. Raises UserError if the processes of a run differ in it, or in their config."""
    if multihost.first():
        _secret(config, workdir)
    multihost.wait_for_first("secret")
    if multihost.several():
        multihost.agree("config", _digest(configs.leaves(config)))
        multihost.agree("secret", _digest(_secret(config, workdir).hex()))


def _check_key(config: configs.Config, workdir: pathlib.Path) -> None:
    """Raise UserError for a key that cannot sign, before anything is made that it is to sign, and for one that would be published."""
    path = config.release.signing_key
    if path:
        signature.load_private_key(path)
        if pathlib.Path(path).resolve().is_relative_to((workdir / "releases").resolve()):
            raise UserError(f"release.signing_key {path}: lies among the files to be released; keep it elsewhere")


def _layer(model: Model, also: Sequence[Model]) -> FirstLayer:
    """The first layer of all authorized models. Raises UserError for one that takes other pixels."""
    for other in also:
        if other.preprocess != model.preprocess:
            raise UserError(
                f"also_authorized: {other.name} prepares images otherwise than {model.name}; authorize models with one preprocessing"
            )
    return together([each.first_layer for each in (model, *also)], model.preprocess.image_shape)


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()


def _open_source(config: configs.Config, workdir: pathlib.Path) -> tuple[sources.Source, Sequence[str]]:
    """The source under the names that are released, and the names that it has itself."""
    rules = config.data
    limits = {"max_megapixels": rules.max_megapixels, "follow_links": rules.follow_links}
    source = sources.open_source(rules.kind, rules.path, rules.split, rules.limit, **limits)
    former = source.names
    if config.release.opaque_names:
        source, former = owner_files.opaque(source, _secret(config, workdir))
    if multihost.several():
        multihost.agree("data source", _digest(list(former)))
    return source, former
