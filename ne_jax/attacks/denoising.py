"""Tier 1: smoothing and denoising, by the libraries that have it. Knows nothing.

Low-sensitivity directions of trained layers are mostly of high frequency, so that these are the first attacks to run.
Those from scikit-image, PyWavelets and bm3d raise UserError where the library is not installed.
"""

from __future__ import annotations

import functools
import importlib
import math
import types
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Float, Int

from ne_jax.attacks.attack import Knowledge
from ne_jax.attacks.processing import Picture, Result, each, in_own_range, tier_1
from ne_jax.core.pixels import Images
from ne_jax.errors import UserError

Scalar = Float[Array, ""]

_NORMAL = 0.6745  # the median size of a standard normal number
_NO_NOISE = 1e-4  # in pixel units: far below the rounding of 8 bits, and where the methods divide by next to nothing


def _library(module: str, package: str) -> types.ModuleType:
    """The optional `module`. Raises UserError that says which package to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"install {package} for this attack: pip install {package}") from error


def mean_filter(stored: Images, knowledge: Knowledge) -> Result:
    """3x3 mean of each channel, edges repeated."""
    return np.asarray(mean_of_nine(jnp.asarray(stored, jnp.float32)))


def gaussian_blur(stored: Images, knowledge: Knowledge, *, sigma: float) -> Result:
    """Gaussian blur of each channel, edges repeated. sigma: in pixels, > 0."""
    return scipy.ndimage.gaussian_filter(stored.astype(np.float32), (0, sigma, sigma, 0), mode="nearest")


def median(stored: Images, knowledge: Knowledge, *, size: int) -> Result:
    """Median of size x size pixels of each channel, edges repeated. size: odd. Xu et al. 2018, "Feature squeezing"."""
    return each(lambda image: scipy.ndimage.median_filter(image, (size, size, 1), mode="nearest"), stored)


def bilateral(stored: Images, knowledge: Knowledge, *, sigma: float, color: float) -> Result:
    """Means of near pixels of like colour (Tomasi & Manduchi 1998), edges repeated.

    sigma: of the place, in pixels, the window being twice that on either side; color: of the distance of colours, in pixel units.
    """
    # Not scikit-image's: 0.26 reads its table of distances with the wrong row length, so that far pixels weigh more than near ones.
    return np.asarray(_bilateral(jnp.asarray(stored, jnp.float32), sigma, color, math.ceil(2 * sigma)))


@functools.partial(jax.jit, static_argnames=("radius",))
def _bilateral(images: Images, sigma: float | Scalar, color: float | Scalar, radius: int) -> Images:
    padded = jnp.pad(images, ((0, 0), (radius, radius), (radius, radius), (0, 0)), mode="edge")
    width = 2 * radius + 1

    def add(place: Int[Array, ""], sums: tuple[Array, Array]) -> tuple[Array, Array]:
        row, column = place // width, place % width
        near = jax.lax.dynamic_slice(padded, (0, row, column, 0), images.shape)
        far = ((row - radius) ** 2 + (column - radius) ** 2) / sigma**2
        unlike = jnp.sum((near - images) ** 2, axis=-1, keepdims=True) / color**2
        weight = jnp.exp(-(far + unlike) / 2)
        return sums[0] + weight * near, sums[1] + weight

    zeros = jnp.zeros_like(images)
    total, weights = jax.lax.fori_loop(0, width**2, add, (zeros, zeros[..., :1]))
    return total / weights


def total_variation(stored: Images, knowledge: Knowledge, *, weight: float) -> Result:
    """The image of least total variation near the stored one (Rudin et al. 1992, Chambolle 2004). weight: > 0, of smoothness."""
    denoised = _library("skimage.restoration", "scikit-image").denoise_tv_chambolle
    return each(lambda image: denoised(image, weight=weight, channel_axis=-1), stored)


def noise_level(image: Picture) -> float:
    """Standard deviation of white noise, from the median of the finest diagonal wavelets (Donoho & Johnstone 1994)."""
    _, (_, _, diagonal) = _library("pywt", "PyWavelets").dwt2(image, "db2", axes=(0, 1))
    return float(np.median(np.abs(diagonal)) / _NORMAL)


def _at_own_level(
    denoise: Callable[[Picture, float], Float[np.ndarray, "..."]], images: Images, strength: float
) -> Result:
    """denoise(image, sigma) of each, at `strength` times its own noise level; an image without noise stays as it is."""

    def run(image: Picture) -> Picture:
        sigma = strength * noise_level(image)
        return denoise(image, sigma).reshape(image.shape) if sigma > _NO_NOISE else image

    return each(run, images)


def wavelet(stored: Images, knowledge: Knowledge, *, strength: float) -> Result:
    """Soft thresholds in wavelets (Chang et al. 2000, BayesShrink), of colours in YCbCr. strength: of the estimated noise, > 0."""
    denoised = _library("skimage.restoration", "scikit-image").denoise_wavelet
    _library("pywt", "PyWavelets")

    def run(image: Picture, sigma: float) -> Float[np.ndarray, "..."]:
        return denoised(image, sigma=sigma, convert2ycbcr=image.shape[2] == 3, channel_axis=-1)

    # In its own range, as scikit-image clips to [0, 1].
    return in_own_range(lambda images: _at_own_level(run, images, strength), stored)


def non_local_means(stored: Images, knowledge: Knowledge, *, strength: float) -> Result:
    """Means of pixels with like surroundings (Buades et al. 2005), 5 x 5 within 13 x 13. strength: of the estimated noise, > 0."""
    denoised = _library("skimage.restoration", "scikit-image").denoise_nl_means

    def run(image: Picture, sigma: float) -> Float[np.ndarray, "..."]:
        # h as scikit-image's guide has it where sigma is given.
        return denoised(image, 5, 6, h=0.8 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1)

    return _at_own_level(run, stored, strength)


_OPPONENT = np.array([[1 / 3, 1 / 3, 1 / 3], [0.5, 0, -0.5], [0.25, -0.5, 0.25]]).T  # bm3d's colours of RGB


def bm3d(stored: Images, knowledge: Knowledge, *, strength: float, fast: bool = False) -> Result:
    """Block matching and filtering in three dimensions (Dabov et al. 2007). strength: of the estimated noise, > 0.

    fast: compare fewer blocks: .5 s of a core for 224 x 224 and not 1.3 s; white noise of .1 comes out 1.6 dB worse.
    The package `bm3d` is for non-commercial use only, by its licence, so that nothing here depends on it.
    """
    library = _library("bm3d", "bm3d")
    profile = library.BM3DProfile()
    profile.num_threads = 1  # `each` has threads, and bm3d's own end the process when two calls meet
    profile.nf = 0  # no table of the noise's spectrum, which is white here: a sixth of the time, 1 dB worse
    if fast:
        profile.step_ht = profile.step_wiener = 8
        profile.search_window_ht = profile.search_window_wiener = 11

    def run(image: Picture, sigma: float) -> Float[np.ndarray, "..."]:
        if image.shape[2] == 3 and np.ptp(image.reshape(-1, 3) @ _OPPONENT, axis=0).min() > 1e-6:
            return library.bm3d_rgb(image, sigma, profile)
        # It divides by the range of each of its colours, which is zero in a grey picture.
        return np.stack([library.bm3d(plane, sigma, profile) for plane in np.moveaxis(image, -1, 0)], axis=-1)

    return _at_own_level(run, stored, strength)


# Above 1: the noise of a release is not white, and the estimate sees its finest part alone.
_STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)

ATTACKS = (
    tier_1(mean_filter, "3x3 mean", "common practice"),
    tier_1(
        gaussian_blur,
        "Gaussian blur",
        "common practice",
        ({"sigma": 1.0}, {"sigma": 2.0}),
        sigma=(0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    ),
    tier_1(median, "median", "Xu et al. 2018, Feature squeezing", ({"size": 5},), size=(3, 5, 7)),
    tier_1(
        bilateral,
        "bilateral filter",
        "Tomasi & Manduchi 1998",
        ({"sigma": 1.5, "color": 0.6},),
        sigma=(1.0, 1.5, 3.0),
        color=(0.1, 0.3, 0.6, 1.0),
    ),
    tier_1(
        total_variation,
        "total variation",
        "Rudin et al. 1992; Chambolle 2004",
        ({"weight": 0.2},),
        weight=(0.02, 0.05, 0.1, 0.2, 0.4),
    ),
    tier_1(wavelet, "wavelets", "Chang et al. 2000", ({"strength": 1.0}, {"strength": 2.0}), strength=_STRENGTHS),
    tier_1(non_local_means, "non-local means", "Buades et al. 2005", ({"strength": 1.0},), strength=_STRENGTHS),
    tier_1(
        bm3d,
        "BM3D",
        "Dabov et al. 2007",
        ({"strength": 2.0, "fast": True},),
        strength=_STRENGTHS,
        fast=(False,),
    ),
)


@jax.jit
def mean_of_nine(stored: Images) -> Images:
    """Tier 1: 3x3 mean of each channel, edges repeated. Knows nothing."""
    padded = jnp.pad(stored, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = stored.shape[1:3]
    shifted = [padded[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return sum(shifted) / 9
