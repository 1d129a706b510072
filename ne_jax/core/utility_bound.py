"""The utility bound (T1) of one change, proved as computed: for any c at all

    norm(T delta) <= norm(T V c) + norm(T (delta - V c)) <= norm(A V) norm(c) + sigma_1 norm(delta - V c),

so that c may be as inexact as float32 makes it. What has to be exact is delta - V c, and the measured norm on the left: both are
products of digits (`enclosure`). V: the subspace's vectors, A: the map of a patch, or of an image that wraps around.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Float64

from ne_jax.core.enclosure import (
    UNIT_ROUNDOFF,
    Columns,
    Plan,
    Rounded,
    Rows,
    as_columns,
    as_rows,
    gain_above,
    norm_above,
    norms_above,
    plan,
    product,
    roundoff,
)  # fmt: skip
from ne_jax.core.first_layer import HIGHEST, FirstLayer, pads
from ne_jax.core.layer_products import cell_kernel, covering
from ne_jax.core.pixels import Image
from ne_jax.core.polyphase import cell, repeats, self_conjugate
from ne_jax.core.subspace import FourierSubspace, PatchSubspace, Subspace
from ne_jax.core.unfold import grid, unfold


class Split(NamedTuple):
    """A change as V c + rest: norm(c), norm(rest), both from above, and how far from delta - V c the computed rest is, at most."""

    inside: Float[Array, ""]
    outside: Float[Array, ""]
    error: Float[Array, ""]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["space", "basis", "low", "largest", "anywhere"],
    meta_fields=["cut"],
)
@dataclasses.dataclass(frozen=True)
class BasisSplitter:
    """A subspace of patches, made ready: V is its basis in every patch. For few directions.

    low: at least norm(A V). largest: at least sigma_1, of changes that lie in patches. anywhere: at least the norm of T.
    """

    space: PatchSubspace
    basis: Columns
    low: Float[Array, ""]
    largest: Float[Array, ""]
    anywhere: Float[Array, ""]
    cut: Plan

    @classmethod
    def of(cls, layer: FirstLayer, space: PatchSubspace) -> BasisSplitter:
        """The subspace, made ready for the layer."""
        cut = plan(space.total_directions)
        # By digits: of directions that the layer hardly sees, float32's own product is rounding alone.
        seen = product(as_rows(layer.matrix, cut), as_columns(space.basis, cut), cut)
        largest = gain_above(layer.matrix)
        return cls(space, as_columns(space.basis.T, cut), gain_above(seen.value) + seen.error, largest, largest, cut)

    def split(self, delta: Image) -> Split:
        """`delta` in two; pixels of no patch are outside."""
        patches = self.space.parts(delta)
        coordinates = jnp.matmul(patches, self.space.basis, precision=HIGHEST)
        rest = product(as_rows(-coordinates, self.cut), self.basis, self.cut, start=patches)
        return Split(norm_above(coordinates), _with_unseen(self.space, delta, norm_above(rest.value)), rest.error)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["space", "others", "back", "gain", "stretch", "low", "largest", "anywhere"],
    meta_fields=["cut"],
)
@dataclasses.dataclass(frozen=True)
class ComplementSplitter:
    """The same for many directions, by the few others, S, for any S at all. With P = 1 - S S^T and D = 1 - S^T S, near zero,

        A delta = A P^2 (P delta) + A S (1 + D + D^2) S^T delta,

    so that V c is P delta. P^2, and not P, since in directions of S float32's S leaves D in P and only D^2 in P^2.
    """

    space: PatchSubspace
    others: Columns
    back: Columns
    gain: Float[Array, ""]
    stretch: Float[Array, ""]
    low: Float[Array, ""]
    largest: Float[Array, ""]
    anywhere: Float[Array, ""]
    cut: Plan

    @classmethod
    def of(cls, layer: FirstLayer, space: PatchSubspace) -> ComplementSplitter:
        """The subspace, made ready for the layer."""
        cut, others = plan(space.total_directions), space.complement
        whole, gain, largest = as_columns(others, cut), gain_above(others), gain_above(layer.matrix)
        once = _without(layer.matrix, others, whole, gain, cut)
        twice = _without(once.value, others, whole, gain, cut)
        defect = product(as_rows(-others.T, cut), whole, cut, start=jnp.eye(others.shape[1]))
        size = norm_above(defect.value) + defect.error
        low = gain_above(twice.value) + twice.error + once.error * (1 + size)  # norm(P) <= max(1, norm(D))
        back = as_columns(others.T, cut)
        return cls(space, whole, back, gain, gain * (1 + size + size**2), low, largest, largest, cut)

    def split(self, delta: Image) -> Split:
        """`delta` in two; pixels of no patch are outside."""
        patches = self.space.parts(delta)
        seen = product(as_rows(patches, self.cut), self.others, self.cut)
        inside = product(as_rows(-seen.value, self.cut), self.back, self.cut, start=patches)
        slack = seen.error * self.gain + inside.error
        outside = _with_unseen(self.space, delta, self.stretch * norm_above(seen.value))
        return Split(norm_above(inside.value) + slack, outside, self.stretch * seen.error)


def _without(
    rows: Float[Array, "rows d"], others: Float[Array, "d r"], whole: Columns, gain: Float[Array, ""], cut: Plan
) -> Rounded:
    """rows P = rows - (rows S) S^T, where rows S is a float32 number and what it lacks. whole: S in digits; gain: its norm."""
    parts = as_rows(rows, cut)
    seen = product(parts, whole, cut)
    lacking = product(parts, whole, cut, start=-seen.value)
    back = product(as_rows(-seen.value, cut), as_columns(others.T, cut), cut, start=rows)
    left = jnp.matmul(lacking.value, others.T, precision=HIGHEST)
    slack = np.float32(roundoff(others.shape[1])) * norm_above(lacking.value) * norm_above(others)
    found = back.value - left
    return Rounded(found, back.error + slack + lacking.error * gain + UNIT_ROUNDOFF * norm_above(found))


def _with_unseen(space: PatchSubspace, delta: Image, outside: Float[Array, ""]) -> Float[Array, ""]:
    """The norm of what is outside in patches and of the pixels of no patch, together."""
    return norm_above(jnp.stack([outside, norm_above(delta - space.whole(space.parts(delta)))]))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["space", "projectors", "down", "across", "low", "largest", "anywhere"],
    meta_fields=["cuts"],
)
@dataclasses.dataclass(frozen=True)
class FourierSplitter:
    """A subspace of frequencies, made ready: V c is the inverse Fourier transform of V_N V_N^H c, three products by digits.

    low, largest, anywhere: as of patches, of images that wrap around; anywhere: with zeros around.
    """

    space: FourierSubspace
    projectors: Columns
    down: Rows
    across: Columns
    low: Float[Array, ""]
    largest: Float[Array, ""]
    anywhere: Float[Array, ""]
    cuts: tuple[Plan, Plan, Plan]

    @classmethod
    def of(cls, layer: FirstLayer, space: FourierSubspace) -> FourierSplitter:
        """The subspace, made ready for the layer."""
        (rows, columns), numbers = grid(space.image_shape, space.strides), space.projectors.shape[-1]
        scale, blocks = np.float32(np.sqrt(repeats(layer, space.image_shape))), _blocks(layer, space.image_shape)
        low = jnp.matmul(blocks.value, space.projectors, precision=HIGHEST)
        sizes = norms_above(space.projectors, (-2, -1))
        slack = blocks.error * sizes + np.float32(roundoff(numbers)) * norms_above(blocks.value, (-2, -1)) * sizes
        down, across = _inverse(rows, columns)
        cuts = plan(2 * numbers), plan(2 * rows), plan(2 * (columns // 2 + 1))
        return cls(
            space, as_columns(_real(space.projectors.mT), cuts[0]), as_rows(down, cuts[1]), as_columns(across, cuts[2]),
            low=scale * jnp.max(gain_above(low) + slack),
            largest=scale * jnp.max(gain_above(blocks.value) + blocks.error),
            anywhere=np.float32(np.sqrt(covering(layer))) * norm_above(layer.matrix),
            cuts=cuts,
        )  # fmt: skip

    def split(self, delta: Image) -> Split:
        """`delta` in two."""
        space, (rows, columns) = self.space, grid(delta.shape, self.space.strides)
        cells = unfold(delta, cell(space.strides, delta.shape)).reshape(rows, columns, -1)
        spectrum = jnp.fft.rfft2(cells, axes=(0, 1), norm="ortho") * np.float32(_twice(columns)[:, None])
        seen = jnp.einsum("...pq,...q->...p", space.projectors, spectrum, precision=HIGHEST)
        coordinates = jnp.concatenate([seen.real, seen.imag], axis=-1)[..., None, :]
        inside = product(as_rows(coordinates, self.cuts[0]), self.projectors, self.cuts[0])
        halves = jnp.stack(jnp.split(inside.value[..., 0, :], 2, axis=-1))  # real and imaginary, rows, half, numbers
        turned = product(self.down, as_columns(halves.reshape(2 * rows, -1), self.cuts[1]), self.cuts[1])
        halves = (
            turned.value.reshape(2, rows, -1, cells.shape[-1]).transpose(1, 3, 0, 2).reshape(-1, 2 * (columns // 2 + 1))
        )
        start = cells.transpose(0, 2, 1).reshape(-1, columns)
        rest = product(as_rows(-halves, self.cuts[2]), self.across, self.cuts[2], start=start)
        error = (inside.error + turned.error + rest.error) * np.float32(
            1 + 2**-16
        )  # the transform's norm is 1, to its digits
        return Split(norm_above(coordinates), norm_above(rest.value), error)


Splitter = BasisSplitter | ComplementSplitter | FourierSplitter


def splitter(layer: FirstLayer, space: Subspace) -> Splitter:
    """The subspace made ready, as takes least work for an image."""
    if isinstance(space, FourierSubspace):
        return FourierSplitter.of(layer, space)
    assert isinstance(space, PatchSubspace)
    return (BasisSplitter if space.basis.shape[1] <= space.complement.shape[1] else ComplementSplitter).of(layer, space)


def _blocks(layer: FirstLayer, image_shape: tuple[int, int, int]) -> Rounded:
    """The layer's matrix at each frequency of `rfft2`, but for a phase, which no norm sees; an error limit for each."""
    (rows, columns), ((top, _), (left, _)) = grid(image_shape, layer.strides), pads(layer, image_shape)
    kernel = cell_kernel(layer, (-top % layer.strides[0], -left % layer.strides[1]))
    down, across = kernel.shape[:2]
    turns = np.exp(2j * np.pi * np.outer(np.arange(rows), np.arange(down)) / rows)
    shifts = np.exp(2j * np.pi * np.outer(np.arange(columns // 2 + 1), np.arange(across)) / columns)
    phases = jnp.asarray(np.einsum("ra,cb->rcab", turns, shifts), jnp.complex64)
    matrices = jnp.einsum("rcab,abpm->rcmp", phases, kernel.astype(jnp.complex64), precision=HIGHEST)
    error = np.float32(roundoff(down * across) * np.sqrt(down * across)) * norm_above(kernel)
    return Rounded(matrices, error)


def _real(matrices: Complex[Array, "*batch p q"]) -> Float[Array, "*batch 2*p 2*q"]:
    """What multiplies rows of real parts and then imaginary parts as the matrices do rows of complex numbers."""
    upper = jnp.concatenate([matrices.real, matrices.imag], axis=-1)
    return jnp.concatenate([upper, jnp.concatenate([-matrices.imag, matrices.real], axis=-1)], axis=-2)


def _twice(columns: int) -> Float64[np.ndarray, " half"]:
    """sqrt(2) for each column of `rfft2` that stands for two, so that norms are those of the image."""
    weights = np.full(columns // 2 + 1, np.sqrt(2))
    weights[self_conjugate(columns)] = 1
    return weights


def _inverse(rows: int, columns: int) -> tuple[Float64[np.ndarray, "_ _"], Float64[np.ndarray, "_ _"]]:
    """The inverse of the unitary `rfft2`, as a matrix down the rows, real parts first, and one across the columns, in float64."""
    turns = np.exp(2j * np.pi * np.outer(np.arange(rows), np.arange(rows)) / rows) / np.sqrt(rows)
    down = np.block([[turns.real, -turns.imag], [turns.imag, turns.real]])
    shifts = np.exp(2j * np.pi * np.outer(np.arange(columns // 2 + 1), np.arange(columns)) / columns) / np.sqrt(columns)
    shifts = shifts * _twice(columns)[:, None]
    return down, np.concatenate([shifts.real, -shifts.imag])
