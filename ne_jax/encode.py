"""Stage encode: source -> releases. Goes on after a kill, and the files do not depend on where it stopped."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Key, UInt8
from tqdm import tqdm

from ne_jax import data, release
from ne_jax.errors import UserError
from ne_jax.job import Job
from ne_jax.noise_keys import noise_keys
from ne_jax.pixels import psnr_db, to_float
from ne_jax.recode import Design, recode
from ne_jax.subspace import Subspace

# Images of one step. Always this many, padded, because a program compiled for another shape may add in another order, and
# then an image's last bit would depend on the batch that it came in (contract 4).
_STEP = 25
# A boxed sample that stays this much weaker than asked, in dB, says that the strength does not fit.
_REACH_DB = 0.1


def encode_batch(
    keys: Key[Array, " batch"],
    pixels: UInt8[Array | np.ndarray, "batch height width channels"],
    space: Subspace,
    psnr_db: float | Float[Array, ""],
    design: Design,
    replace: bool = False,
    rounds: int = 40,
) -> Float[Array, "batch height width channels"]:
    """`recode` of a batch, each image with its own key; bit for bit the same in a batch of any size."""
    count, padding = len(pixels), -len(pixels) % _STEP
    padded = jnp.pad(jnp.asarray(pixels), ((0, padding), (0, 0), (0, 0), (0, 0)))
    words = jnp.pad(jax.random.key_data(keys), ((0, padding), (0, 0)))
    steps = [
        _encode_step(words[i : i + _STEP], padded[i : i + _STEP], space, psnr_db, design, replace, rounds)
        for i in range(0, count, _STEP)
    ]
    return jnp.concatenate(steps)[:count]


@functools.partial(jax.jit, static_argnames=("design", "replace", "rounds"))
def _encode_step(words, pixels, space: Subspace, psnr_db, design: Design, replace: bool, rounds: int):
    def one(word, image):
        key = jax.random.wrap_key_data(word, impl="threefry2x32")
        return recode(key, image, space, psnr_db, design=design, replace=replace, rounds=rounds)

    return jax.vmap(one)(words, pixels)


def recode_job(
    job: Job,
    release_format: str,
    keys: Key[Array, " batch"],
    pixels: np.ndarray,
    strength_db: float,
    replace: bool | None = None,
) -> np.ndarray:
    """The NEs of clean `pixels` as `release_format` stores them, at a strength, and with a `replace`, that the caller chooses."""
    settings = job.config.recode
    replace = settings.replace if replace is None else replace
    design = job.design(release_format)
    recoded = encode_batch(keys, pixels, job.space, strength_db, design, replace, settings.rounds)
    return release.to_stored(np.asarray(recoded), release_format)


def realised_psnr_db(clean: Array | np.ndarray, stored: Array | np.ndarray) -> np.ndarray:
    """PSNR in dB of each stored image (float32 or uint8) against its clean uint8 pixels."""
    return np.asarray(jax.vmap(psnr_db)(to_float(stored) - to_float(clean)))


def check_reach(job: Job) -> None:
    """Raise UserError if `recode.psnr_db` does not fit into [0, 1], unless `recode.fit` says to take what does."""
    boxed = [name for name in job.config.release.formats if job.design(name) == "boxed"]
    if job.config.recode.fit or not boxed:
        return
    clean = job.sample_pixels()
    stored = recode_job(job, boxed[0], noise_keys(job.secret(), clean), clean, job.config.recode.psnr_db)
    realised = realised_psnr_db(clean, stored)
    asked = job.config.recode.psnr_db
    if np.median(realised) > asked + _REACH_DB:
        raise UserError(
            f"recode.psnr_db={asked:g} cannot be reached inside [0, 1]: the strongest that fits is {np.median(realised):.1f} dB "
            f"(median of {len(clean)} images, {realised.min():.1f} to {realised.max():.1f}); ask for {np.ceil(realised.max()):g} "
            "or more, set recode.fit=True to take the strongest of each image, or release float32 only"
        )


def run(job: Job) -> int:
    """Write every release of the config; returns the number of source images that could not be read."""
    todo = [name for name in job.config.release.formats if not (job.release_dir(name) / release.MANIFEST).is_file()]
    for name in set(job.config.release.formats) - set(todo):
        print(f"{job.release_dir(name)} is complete; nothing to encode")
    if todo:
        check_reach(job)
        _encode_shards(job, todo)
    problems: set[str] = set()
    for name in job.config.release.formats:
        records = [json.loads(path.read_text()) for path in sorted(_progress(job, name).glob("*.json"))]
        problems |= {why for record in records for why in record["problems"]}
        if name in todo:
            release.write_json(job.release_dir(name) / release.MANIFEST, _manifest(job, name, records))
    for why in sorted(problems):
        logging.error("skipped %s", why)
    release.write_json(job.workdir / "problems.json", sorted(problems))
    if len(problems) == len(job.source.names):
        raise UserError(f"none of the {len(problems)} images could be read; the first: {min(problems)}")
    return len(problems)


def _progress(job: Job, release_format: str) -> pathlib.Path:
    return job.workdir / "progress" / release_format


def _encode_shards(job: Job, formats: list[str]) -> None:
    count, size = len(job.source.names), job.config.release.shard_size
    secret = job.secret()
    with tqdm(total=count, desc="encode", unit="image") as bar:
        for shard, start in enumerate(range(0, count, size)):
            missing = [name for name in formats if not (_progress(job, name) / f"{shard:05d}.json").is_file()]
            indices = range(start, min(start + size, count))
            if missing:
                _encode_shard(job, missing, shard, indices, secret, bar)
            else:
                bar.update(len(indices))


def _encode_shard(job: Job, formats: list[str], shard: int, indices: range, secret: bytes, bar: tqdm) -> None:
    """Encode one shard in the given formats. Its record is written last and marks it done."""
    problems: list[str] = []
    rows: dict[str, list] = {name: [] for name in formats}
    names: list[str] = []

    def broken(_: int, why: str) -> None:
        problems.append(why)
        bar.update(1)

    for batch in data.batches(job.source, job.authorized.preprocess, job.config.batch_size, indices, broken):
        keys = noise_keys(secret, batch.pixels)
        kept = int(batch.mask.sum())
        names += [job.source.names[index] for index in batch.indices[:kept]]
        for name in formats:
            stored = recode_job(job, name, keys, batch.pixels, job.config.recode.psnr_db)[:kept]
            rows[name].append((stored, realised_psnr_db(batch.pixels[:kept], stored)))
        bar.update(kept)
    for name in formats:
        images = np.concatenate([stored for stored, _ in rows[name]]) if names else None
        _write_shard(job, name, shard, names, images)
        realised = release.finite(np.concatenate([values for _, values in rows[name]])) if names else []
        edge = (
            [float(np.mean((image <= 0) | (image >= (255 if name == "png8" else 1)))) for image in images]
            if names
            else []
        )
        record = {"names": names, "problems": problems, "psnr_db": realised, "edge_share": edge}
        release.write_json(_progress(job, name) / f"{shard:05d}.json", record)


def _write_shard(job: Job, release_format: str, shard: int, names: list[str], images: np.ndarray | None) -> None:
    directory = job.release_dir(release_format)
    if images is None:
        return
    if release_format == "float32":
        release.write_shard(directory, shard, names, images)
        return
    for name, image in zip(names, images, strict=True):
        release.write_png(directory, name, image)


def _manifest(job: Job, release_format: str, records: list[dict]) -> dict:
    """The public manifest: what a reader must keep and what was done, nothing that gives the noise away."""
    realised = [value for record in records for value in record["psnr_db"]]
    changed = [value for value in realised if value is not None]
    spread = np.percentile(changed, (0, 50, 100)).tolist() if changed else (None,) * 3
    preprocess, settings = job.authorized.preprocess, job.config.recode
    return {
        "ne_jax": importlib.metadata.version("ne_jax"),
        "pillow": importlib.metadata.version("pillow"),  # versions differ in how they resize
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "authorized": job.authorized.name,
        "checkpoint_sha256": job.authorized.sha256,
        "format": release_format,
        "design": job.design(release_format),
        "replace": settings.replace,
        "rule": job.config.subspace.rule,
        "threshold": job.config.subspace.value,
        "directions": job.space.num_directions,
        "patch_numbers": job.space.total_directions,
        "psnr_db_asked": settings.psnr_db,
        "psnr_db_realised": dict(zip(("min", "median", "max"), spread, strict=True)),
        "edge_share": float(np.mean([share for record in records for share in record["edge_share"]])),
        "image_shape": list(preprocess.image_shape),
        "geometry": "feed the stored pixels as they are: a resize or crop off the patch grid breaks the authorized model",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "images": len(realised),
        "left_unchanged": len(realised) - len(changed),
        "names": [name for record in records for name in record["names"]],
        "files": release.file_hashes(job.release_dir(release_format)),
    }
