"""Work on batches image by image: the same bits in a batch of any size, on devices of any number, however the batch is sharded.

`jax.vmap` would make one program of a batch, whose sums XLA may order by the batch's size, and which does not know how to cut an
image whose batch is sharded over an Explicit mesh, JAX's default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Leaves = tuple[Any, ...]  # arrays, and numbers

# Images at once where there are many cores for little work each. A CPU takes one, whose numbers stay in its cache.
_AT_ONCE = 16


def image_by_image(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of one image, compiled, such that `jax.vmap` runs it for one image after the other (off the CPU for 16 together) on
    the device where the image is. Its arguments, and its result, are pytrees of arrays. Composes with jit, vmap, grad and shard_map."""

    def whole(*arguments):
        leaves, tree = jax.tree.flatten(arguments)
        return _of_leaves(function, tree)(*leaves)

    return whole


@functools.lru_cache(64)
def _of_leaves(function: Callable[..., Any], tree: Any) -> Callable[..., Any]:
    def plain(*leaves: Any) -> Any:
        # What surrounds it, constants too, must not change how an image is computed.
        return function(*jax.tree.unflatten(tree, jax.lax.optimization_barrier(leaves)))

    compiled = jax.jit(plain)
    looped = custom_vmap(lambda *leaves: compiled(*leaves))

    @looped.def_vmap
    def batch(_, batched, *leaves):
        found = _each(plain, tuple(batched), placed(_chosen(leaves, batched, True)), *leaves)
        return found, jax.tree.map(lambda leaf: True, found)

    # Reverse differentiation does not go through custom_vmap: derivatives are those of `function`.
    derived = jax.custom_jvp(lambda *leaves: looped(*leaves))
    derived.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))
    return derived


def _chosen(leaves: Sequence[Any], batched: Sequence[bool], which: bool) -> Leaves:
    return tuple(leaf for leaf, flag in zip(leaves, batched, strict=True) if flag == which)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _each(function, batched: tuple[bool, ...], sharding: NamedSharding | None, *leaves: Any) -> Any:
    """`function(*leaves)` for each row of those leaves that are `batched`, stacked."""

    def one(row: Leaves, shared: Leaves) -> Any:
        of_row, of_all = iter(row), iter(shared)
        return function(*(next(of_row if flag else of_all) for flag in batched))

    return over_rows(one, sharding, _chosen(leaves, batched, True), _chosen(leaves, batched, False))


def over_rows(function: Callable[[Leaves, Any], Any], sharding: NamedSharding | None, rows: Leaves, shared: Any) -> Any:
    """`function(row, shared)` for each row, stacked; where the rows are `placed`, each on its own device. For use inside jit."""

    def local(rows: Leaves, shared: Any) -> Any:
        at_once = None if jax.default_backend() == "cpu" else _AT_ONCE
        return jax.lax.map(lambda row: function(row, shared), rows, batch_size=at_once)

    if sharding is None:
        return local(rows, shared)
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    if AxisType.Explicit in sharding.mesh.axis_types:
        rows = tuple(jax.sharding.reshard(row, sharding) for row in rows)
        shared = jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, everywhere), shared)
    # Nothing is summed over devices, so nothing has to be checked for it.
    spread = jax.shard_map(
        local, mesh=sharding.mesh, in_specs=(sharding.spec, everywhere.spec), out_specs=sharding.spec, check_vma=False
    )
    return spread(rows, shared)


def placed(rows: Leaves) -> NamedSharding | None:
    """How the first axis of the rows is sharded: over Explicit axes, or in arrays that can be looked at; else, on a mesh of Auto axes
    that JAX was told of and that the rows can be dealt out to, over all of them."""
    for row in rows:
        known = isinstance(row, jax.Array) and not isinstance(row, jax.core.Tracer)
        found = row.sharding if known else jax.typeof(row).sharding
        if isinstance(found, NamedSharding) and len(found.spec) and found.spec[0] is not None:
            return NamedSharding(found.mesh, PartitionSpec(found.spec[0]))
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and set(mesh.axis_types) == {AxisType.Auto} and len(rows[0]) % mesh.size == 0:
        return NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return None


def vary_alike(carry: Any, *others: Any) -> Any:
    """The leaves of a loop's first carry, said to vary over all mesh axes of `shard_map` that any leaf of the carry or of `others`
    varies over, as they will after a round. Outside of `shard_map` nothing is done."""
    axes = frozenset().union(*map(_varying, jax.tree.leaves((carry, others))))

    def cast(leaf):
        missing = tuple(sorted(axes - _varying(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, carry)


def _varying(leaf: Any) -> frozenset[str]:
    return jax.typeof(leaf).manual_axis_type.varying
