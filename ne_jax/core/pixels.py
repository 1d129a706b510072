"""Pixels: uint8, or floating point in units where 1 is the full range. Contract 1 of the design is checked here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped, UInt8

from ne_jax.errors import UserError

# Of images, in pixel units unless bytes are said; what holds them, and how many.
Image = Float[Array, "height width channels"]
Images = Float[Array | np.ndarray, "n height width channels"]
ByteImages = UInt8[np.ndarray, "n height width channels"]
Stored = Shaped[np.ndarray, "n height width channels"]  # as files hold them: uint8, or floating point of any width


def is_concrete(*arrays) -> bool:
    """Whether values can be looked at; inside jit, vmap or grad they cannot."""
    return not any(isinstance(array, jax.core.Tracer) for array in arrays)


# Bytes times this, never divided by 255: XLA turns a division by a constant into this product, NumPy does not, and a pixel would
# have two values.
UNIT = np.float32(1 / 255)


def from_bytes(pixels: UInt8[Array | np.ndarray, "..."]) -> Float32[Array | np.ndarray, "..."]:
    """uint8 to float32 in [0, 1], by the same product in NumPy and in JAX."""
    return pixels.astype(np.float32) * UNIT


def float_pixels(stored: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Numbers as a file holds them, uint8 or floating point, in pixel units."""
    return from_bytes(stored) if stored.dtype == np.uint8 else stored.astype(np.float32)


def to_float(pixels: Shaped[Array | np.ndarray, "..."], name: str = "image") -> Float[Array, "..."]:
    """uint8 to float32 in [0, 1]; floating point to float32 unchanged. Raises UserError for any other dtype."""
    if pixels.dtype == np.uint8:
        return jnp.asarray(from_bytes(pixels))
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise UserError(f"{name} has dtype {pixels.dtype}; give uint8, or floating point in [0, 1]")
    return jnp.asarray(pixels, jnp.float32)


def check_pixels(pixels: Shaped[Array | np.ndarray, "..."], name: str = "image") -> Float[Array, "..."]:
    """`to_float`, and UserError unless every value that can be looked at lies in [0, 1]."""
    values = to_float(pixels, name)
    if is_concrete(values) and values.size:
        low, high = float(jnp.min(values)), float(jnp.max(values))
        if not (low >= 0 and high <= 1):  # also catches NaN
            hint = "divide by 255" if 1 < high <= 255 and low >= 0 else "give pixels, not normalised values"
            raise UserError(f"{name} has values from {low:.4g} to {high:.4g}, outside [0, 1]: {hint}")
    return values


def poisoned(image: Float[Array, "..."], strength: float | Float[Array, ""] = 0.0) -> Float[Array, "..."]:
    """The image, bit for bit; all of it NaN where a pixel of it is outside [0, 1], or the strength (dB) NaN or -infinity. So that
    inside jit, vmap and grad, where nothing can be raised, what is computed of it, gradients too, cannot be taken for a result."""
    right = jnp.all((image >= 0) & (image <= 1)) & (jnp.asarray(strength) > -jnp.inf)
    return image * jnp.where(right, 1, jnp.nan).astype(image.dtype)  # a product, which gradients go through


def check_strength(psnr_db: float | Shaped[Array | np.ndarray, ""]) -> Float[Array, ""]:
    """The strength in dB as float32. Raises UserError for NaN and -infinity, if it can be looked at; infinite is no change."""
    strength = jnp.asarray(psnr_db, jnp.float32)
    if is_concrete(strength) and not float(strength) > -np.inf:
        raise UserError(f"psnr_db is {float(strength)}; give a strength in dB, such as 14")
    return strength


def psnr_db(delta: Float[Array, "..."]) -> Float[Array, ""]:
    """-10 log10 mean(delta^2), in dB; infinite for no change. `delta` in pixel units."""
    return -10 * jnp.log10(jnp.mean(jnp.square(delta)))
