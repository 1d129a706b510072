"""Products, norms and gains in float32 with a proved limit of their error, on every backend and in any order of summing.

A product is taken of digits: each number is cut into a few whole numbers so small that float32 adds all of their products without
rounding (Ozaki, Ogita, Oishi and Rump 2012, "Error-free transformations of matrix multiplication by using fast routines of matrix
multiplication"). What is left out, and what rounding the sums of these does, is measured as it happens (Higham 2002, "Accuracy and
Stability of Numerical Algorithms", section 3.3, running error analysis). Nothing is assumed of a library but that each of its
operations rounds to float32; of plain products, four times the worst that IEEE arithmetic does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from ne_jax.core.first_layer import HIGHEST

UNIT_ROUNDOFF = float(np.finfo(np.float32).eps) / 2
_EXACT = 2**24  # float32 holds every whole number up to here
_WIDEST = 9  # bits of a digit, with its sign: bfloat16 and TF32, in which matrix units may multiply, hold it
_BITS = 32  # of a number, together: 2^-32 of the largest one is little beside the rounding of a stored pixel
_SQUARINGS = 16  # 1,000 equal singular values: .005 % above
SLACK = np.float32(1 + 64 * UNIT_ROUNDOFF)  # of sums and products of a few limits


def norm_above(values: Inexact[Array, "..."]) -> Float[Array, ""]:
    """An upper limit of the norm of all numbers, at most 2 (n + 8) units of roundoff above it for each axis, of n numbers (Higham 2002,
    section 3.1). One axis after the other, since sums of few numbers are rounded less."""
    return norms_above(values, None)


def norms_above(values: Inexact[Array, "..."], axis: tuple[int, ...] | None) -> Float[Array, "..."]:
    """The same over some axes alone."""
    largest = jnp.max(jnp.abs(values), axis=axis, keepdims=True)
    # As shares of the largest, since squares of small numbers would vanish.
    shares = jnp.abs(values) / jnp.where(largest > 0, largest, 1)
    axes = range(values.ndim) if axis is None else [each % values.ndim for each in axis]
    norms = shares
    for each in axes:
        sums = jnp.sum(jnp.square(norms), axis=each, keepdims=True)
        norms = jnp.sqrt(sums) * np.float32(1 + (values.shape[each] + 8) * UNIT_ROUNDOFF)
    return jnp.squeeze(norms * largest, tuple(axes))


def roundoff(terms: int) -> float:
    """Relative error of a plain float32 product of two matrices with `terms` products in a sum, real or complex, in the norm of
    Frobenius: gamma_n (Higham 2002, section 3.5), times 4 for complex numbers and for what replaces float32 on matrix units."""
    return 4 * (terms + 2) * UNIT_ROUNDOFF


class Plan(NamedTuple):
    """How numbers are cut: `count` digits, each a whole number of at most 2^(bits - 1)."""

    bits: int
    count: int


def plan(terms: int) -> Plan:
    """The fewest digits whose products float32 adds exactly where `terms` products of two numbers make one sum. ValueError for more
    than 95,000 terms."""
    for bits in range(_WIDEST, 2, -1):
        count = -(-_BITS // bits)
        if terms * count * 4 ** (bits - 1) <= _EXACT:
            return Plan(bits, count)
    raise ValueError(f"{terms} terms are too many for one sum of digits")


class Cut(NamedTuple):
    """Numbers as unit * sum_k parts[k] * 2^-(bits k + bits - 1), and what that leaves out. parts: whole numbers. unit: powers of two, one
    for all or one for each column. rests: upper limits of the norm of what the first k parts leave out, from k = 0 (of everything)."""

    parts: Float[Array, "count ..."]
    unit: Float[Array, "..."]
    rests: Float[Array, " count_and_one"]


def _weights(cut: Plan, dimensions: int) -> Float[np.ndarray, "count ..."]:
    powers = cut.bits * np.arange(cut.count) + cut.bits - 1
    return np.exp2(powers).astype(np.float32).reshape(-1, *(1,) * dimensions)


def cut_up(values: Float[Array | np.ndarray, "..."], cut: Plan, columns: bool = False) -> Cut:
    """`values` cut by the plan, each column in a unit of its own if asked. Without rounding: what is left of a number has no bits
    that it has not, and is smaller. Constants may be float64 arrays of NumPy."""
    some = np if isinstance(values, np.ndarray) else jnp
    largest = some.max(some.abs(values), axis=tuple(range(values.ndim - 1)) if columns else None)
    unit = some.ldexp(some.ones_like(largest), some.frexp(largest)[1])
    weights, scaled = _weights(cut, values.ndim), values / unit
    first = some.round(scaled * weights) / weights  # the first k + 1 parts together
    parts = some.concatenate([first[:1], first[1:] - first[:-1]]) * weights
    left = some.concatenate([values[None], (scaled - first) * unit]).astype(np.float32)
    rests = norms_above(jnp.asarray(left), tuple(range(1, left.ndim)))
    return Cut(jnp.asarray(parts, jnp.float32), jnp.asarray(unit, jnp.float32), rests)


class Rows(NamedTuple):
    """The left side of products. flat: of each row the first digits of all its numbers, the second, and so on. heights: norms of
    the digits' shares from above; rest: of what they leave out."""

    flat: Float[Array, "*batch rows count*d"]
    unit: Float[Array, ""]
    heights: Float[Array, " count"]
    rest: Float[Array, ""]


class Columns(NamedTuple):
    """The right side of products. flat: of each column the last digits of all its numbers, the ones before, and so on. rests: see
    `Cut`."""

    flat: Float[Array, "*batch count*d columns"]
    unit: Float[Array, "..."]
    rests: Float[Array, " count_and_one"]


def rows(parts: Float[Array, "count *batch rows d"], whole: Cut, cut: Plan) -> Rows:
    """`whole`, its parts in the shape of a product's left side."""
    flat = jnp.moveaxis(parts, 0, -2)
    shares = whole.parts / _weights(cut, whole.parts.ndim - 1) * whole.unit
    heights = norms_above(shares, tuple(range(1, shares.ndim)))
    return Rows(flat.reshape(*flat.shape[:-2], -1), whole.unit, heights, whole.rests[-1])


def as_rows(values: Float[Array | np.ndarray, "*batch rows d"], cut: Plan) -> Rows:
    """`values` as the left side of products."""
    whole = cut_up(values, cut)
    return rows(whole.parts, whole, cut)


def as_columns(values: Float[Array | np.ndarray, "*batch d columns"], cut: Plan, own_units: bool = False) -> Columns:
    """`values` as the right side of products."""
    whole = cut_up(values, cut, columns=own_units)
    flat = jnp.moveaxis(whole.parts[::-1], 0, -3)
    return Columns(flat.reshape(*flat.shape[:-3], -1, flat.shape[-1]), whole.unit, whole.rests)


class Rounded(NamedTuple):
    """A float32 result, and an upper limit of the norm of its error."""

    value: Float[Array, "..."]
    error: Float[Array, "..."]


def product(
    left: Rows, right: Columns, cut: Plan, start: Float[Array, "..."] | None = None, repeats: float = 1
) -> Rounded:
    """left @ right, or start + left @ right, rounded to float32 about once. repeats: in how many rows of `left`, at most, a number is."""
    width = left.flat.shape[-1] // cut.count
    total, partial = start, jnp.float32(0)
    for last in range(cut.count):  # pairs of one weight, the heaviest first
        some, others = left.flat[..., : (last + 1) * width], right.flat[..., (cut.count - 1 - last) * width :, :]
        exact = jnp.matmul(some, others, precision=HIGHEST)
        exact = exact * np.float32(2.0 ** -(cut.bits * last + 2 * cut.bits - 2)) * left.unit * right.unit
        total = exact if total is None else total + exact
        if last or start is not None:
            partial += jnp.abs(total)
    # The pairs of parts of less weight: the first k of the left with all but the first count - k of the right.
    missing = jnp.sum(left.heights * right.rests[:0:-1]) + left.rest * right.rests[0]
    return Rounded(total, (UNIT_ROUNDOFF * norm_above(partial) + np.sqrt(repeats) * missing) * SLACK)


def gain_above(matrices: Inexact[Array, "*batch rows columns"]) -> Float[Array, "*batch"]:
    """An upper limit of the largest singular value of each matrix, about a thousandth above it at most.

    From G = M M^H: norm(G)^(2^k) = norm(G^(2^k)) <= norm(G^(2^k))_F, by products alone. Every rounding error is added on the way back.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        matrices = matrices.mT
    size = norms_above(matrices, (-2, -1))
    scaled = matrices / jnp.where(size > 0, size, 1)[..., None, None]
    gram, slack = _gram(scaled)

    def square(power, _):
        step = norms_above(power, (-2, -1))
        power = power / jnp.where(step > 0, step, 1)[..., None, None]
        return jnp.matmul(power, power, precision=HIGHEST), step

    def root(top, step):
        return step * jnp.sqrt(top + np.float32(roundoff(gram.shape[-1]))), None

    power, steps = jax.lax.scan(square, gram, None, length=_SQUARINGS)
    top, _ = jax.lax.scan(root, norms_above(power, (-2, -1)), steps, reverse=True)
    return size * jnp.sqrt(top + slack) * SLACK


def _gram(
    scaled: Inexact[Array, "*batch rows columns"],
) -> tuple[Inexact[Array, "*batch rows rows"], Float[Array, "..."]]:
    """M M^H of matrices of norm 1 at most, and an upper limit of its error: by digits for a single real matrix, whose largest singular
    value may be far below its norm."""
    if scaled.ndim == 2 and not jnp.iscomplexobj(scaled):
        cut = plan(scaled.shape[-1])
        found = product(as_rows(scaled, cut), as_columns(scaled.mT, cut), cut)
        return found.value, found.error
    return jnp.matmul(scaled, jnp.conj(scaled.mT), precision=HIGHEST), jnp.float32(roundoff(scaled.shape[-1]))
