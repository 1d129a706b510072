"""The singular values and right singular vectors of any differentiable prefix of a network at one image, by products alone.

Near an image x a prefix f is the linear map J of pixel changes, f(x + delta) = f(x) + J delta + O(norm(delta)^2). Its ends are found from
J and its transpose applied to blocks of vectors; J itself is never formed. The search is a block Lanczos method on J^T J with thick
restarts (Wu and Simon 2000; Stewart 2001) and full reorthogonalisation: one product a vector and round, and the two ends of the
spectrum come out of one basis. LOBPCG (Knyazev 2001) in JAX's form takes four products, and needs a shifted operator for the low end.
A last SVD of J on the vectors kept takes back the digits that J^T J squares away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ne_jax.errors import UserError

ENDS = ("lowest", "largest")
_WIDTH = 64  # vectors of the basis, where `count` is small
_BLOCKS = 6  # blocks of `count` vectors in the basis, at least, where an image has so many numbers

Rows = Float[Array, "rows numbers"]
Basis = Float[Array, "places numbers"]  # its last block awaits its product; zero where nothing is yet
Small = Float[Array, "width width"]  # V^T J^T J V of all blocks of the basis but the last; the upper triangle counts


class JacobianSpectrum(NamedTuple):
    """One end of the singular value decomposition of a Jacobian J, change of output per change of pixels.

    singular_values: ascending for "lowest", descending for "largest".
    vectors: right singular vectors as images of pixel changes, orthonormal; the i-th belongs to the i-th value.
    residuals: norm(J^T J v - sigma^2 v) / sigma_1^2 of each: how far the search has converged; rounding leaves about 1e-6.
    sigma_1: the largest singular value of all, whichever end was asked for.
    """

    singular_values: Float[Array, " count"]
    vectors: Float[Array, "count height width channels"]
    residuals: Float[Array, " count"]
    sigma_1: Float[Array, ""]


class _Plan(NamedTuple):
    """Sizes of a search, static: vectors in a block; blocks in the basis; blocks kept at a restart."""

    block: int
    blocks: int
    kept: int


def jacobian_spectrum(
    key: Key[Array, ""],
    function: Callable[[Array], Any],
    image: Float[Array, "height width channels"],
    count: int,
    *,
    end: str = "lowest",
    iterations: int = 100,
) -> JacobianSpectrum:
    """The `count` lowest or largest singular values of the Jacobian of `function` at `image`, with their vectors.

    function: takes one image in pixel units and gives an array or a pytree of arrays, whose numbers are one output; differentiable
        forward (a `custom_vjp` is not). It is static, so the same function is compiled once and a new lambda anew. With fewer outputs
        than an image has numbers the lowest values are zero and the vectors a random part of the null space.
    iterations: how often, about, J^T J is applied to a block of `count` vectors. The gaps between singular values set how many
        it takes; `residuals` tell. Memory is that of max(64, 6 count) images and of J's output for half of them.

    Matrix products run at highest precision. In float32 the vectors of values below about 3e-4 sigma_1 are told apart from each
    other only among those the search keeps. Composes with jit and vmap.

    Raises UserError when end is neither, count is not in 1 ... an eighth of the image's numbers, or iterations is not positive.
    """
    if end not in ENDS:
        raise UserError(f"end {end!r} is unknown; choose one of {', '.join(ENDS)}")
    if not 1 <= count <= image.size // 8:
        raise UserError(
            f"count {count} is not in 1 ... {image.size // 8}, an eighth of an image of shape {image.shape}"
        )
    if iterations < 1:
        raise UserError(f"iterations {iterations} is not positive")
    plan = _plan(image.size, count)
    cycles = max(1, -(-(iterations - plan.kept) // (plan.blocks - plan.kept)))
    return _search(key, function, image, cycles, end, plan)


def _plan(numbers: int, count: int) -> _Plan:
    # Blocks of less than `count` would miss copies of a singular value: a first layer on patches has each once for every patch.
    # One block more than the basis must fit, orthonormal, among the numbers of an image.
    blocks = min(max(_WIDTH // count, _BLOCKS), numbers // count - 1)
    return _Plan(count, blocks, (2 + blocks) // 2)


def _products(
    function: Callable[[Array], Any], image: Float[Array, "height width channels"]
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Of the Jacobian J at the image: J of each row, and J^T J of each row."""

    def flat(numbers: Float[Array, " numbers"]) -> Float[Array, " outputs"]:
        leaves = jax.tree.leaves(function(numbers.reshape(image.shape)))
        return jnp.concatenate([jnp.ravel(leaf).astype(numbers.dtype) for leaf in leaves])

    _, push = jax.linearize(flat, image.ravel())
    pull = jax.linear_transpose(push, image.ravel())
    return jax.vmap(push), jax.vmap(lambda row: pull(push(row))[0])


def _orthonormal(rows: Rows) -> Rows:
    return jnp.linalg.qr(rows.T)[0].T


def _complement(key: Key[Array, ""], rows: Rows, basis: Basis) -> Rows:
    """An orthonormal basis of what `rows` add to `basis`; random directions stand in for those that add nothing."""
    norm = jnp.linalg.norm(rows)
    # Noise just above rounding: what is left of rows that add nothing would point back into the basis, however often it is taken out.
    size = 4 * jnp.finfo(rows.dtype).eps / np.sqrt(rows.shape[1])
    rows = rows / jnp.where(norm > 0, norm, 1)
    rows = rows - (rows @ basis.T) @ basis + size * jax.random.normal(key, rows.shape, rows.dtype)
    # Twice is enough for rows that add something (Parlett 1998, 6.9); the third is for noise made into unit vectors.
    for _ in range(2):
        rows = _orthonormal(rows)
        rows = rows - (rows @ basis.T) @ basis
    return _orthonormal(rows)


def _fill(key: Key[Array, ""], gram, plan: _Plan, start, basis: Basis, small: Small) -> tuple[Basis, Small]:
    """Both, filled from block `start` on."""

    def step(place, state):
        basis, small = state
        product = gram(jax.lax.dynamic_slice_in_dim(basis, place * plan.block, plan.block))
        inner = basis[: len(small)] @ product.T
        small = jax.lax.dynamic_update_slice_in_dim(small, inner, place * plan.block, axis=1)
        fresh = _complement(jax.random.fold_in(key, place), product, basis)
        return jax.lax.dynamic_update_slice_in_dim(basis, fresh, (place + 1) * plan.block, axis=0), small

    return jax.lax.fori_loop(start, plan.blocks, step, (basis, small))


def _restart(end: str, plan: _Plan, basis: Basis, small: Small) -> tuple[Basis, Small]:
    """The kept Ritz vectors of the end, followed by the block that holds all their residuals."""
    width, kept = len(small), plan.kept * plan.block
    values, rotation = jnp.linalg.eigh(jnp.triu(small) + jnp.triu(small, 1).T, symmetrize_input=False)
    # The largest stays in the basis whichever the end, for sigma_1.
    order = np.r_[: kept - 1, width - 1] if end == "lowest" else np.arange(width - kept, width)
    rows = jnp.concatenate([rotation[:, order].T @ basis[:width], basis[width:]])
    diagonal = jnp.zeros_like(small).at[:kept, :kept].set(jnp.diag(values[order]))
    return jnp.zeros_like(basis).at[: len(rows)].set(rows), diagonal


@functools.partial(jax.jit, static_argnames=("function", "end", "plan"))
def _search(key, function, image, cycles, end: str, plan: _Plan) -> JacobianSpectrum:
    with jax.default_matmul_precision("highest"):
        push, gram = _products(function, image)
        first, key = jax.random.split(key)
        start = _orthonormal(jax.random.normal(first, (plan.block, image.size), image.dtype))
        width = plan.blocks * plan.block
        basis = jnp.zeros((width + plan.block, image.size), image.dtype).at[: plan.block].set(start)

        def cycle(turn, state):
            begin = jnp.where(turn == 0, 0, plan.kept)
            return _restart(end, plan, *_fill(jax.random.fold_in(key, turn), gram, plan, begin, *state))

        basis, _ = jax.lax.fori_loop(0, cycles, cycle, (basis, jnp.zeros((width, width), image.dtype)))
        return _decompose(push, gram, _orthonormal(basis[: plan.kept * plan.block]), image, plan.block, end)


def _decompose(push, gram, kept: Rows, image, count: int, end: str) -> JacobianSpectrum:
    """SVD of J on the kept vectors: J^T J would leave singular values below 3e-4 sigma_1 to rounding."""
    _, values, right = jnp.linalg.svd(jnp.linalg.qr(push(kept).T, mode="r"), full_matrices=True)
    values = jnp.pad(values, (0, len(kept) - len(values)))
    order = np.arange(count) if end == "largest" else np.arange(len(kept))[: -count - 1 : -1]
    chosen, rows = values[order], right[order] @ kept
    left = jnp.linalg.norm(gram(rows) - chosen[:, None] ** 2 * rows, axis=1)
    residuals = left / jnp.where(values[0] > 0, values[0] ** 2, 1)
    return JacobianSpectrum(chosen, rows.reshape(count, *image.shape), residuals, values[0])
