"""The mesh of devices, and how arrays and work are divided over it.

A mesh has one axis, "data", or two: "data" and "fsdp". The rows of a batch are divided over all
devices. Parameters and the optimizer's moments are whole on each device, or divided over those of
an axis "fsdp": fully sharded data parallelism (Rajbhandari et al. 2020, arXiv:1910.02054; Zhao et
al. 2023, arXiv:2304.11277).

The only file that names a mesh axis.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from charjax import backend
from charjax.ops.choice import on_cpu

_AXIS, _FSDP = "data", "fsdp"
# Layouts of an argument: its leading axis divided over the devices, or a whole copy on each.
ROWS, WHOLE = PartitionSpec(_AXIS), PartitionSpec()
T = TypeVar("T")


def make_mesh(devices: list[jax.Device], batch_size: int, fsdp: int = 1) -> Mesh:
    """Return a mesh of the largest number of devices that divides the batch.

    Args:
      devices: those that there are.
      batch_size: rows that are divided.
      fsdp: devices over which parameters are divided; it divides the batch, and is at most the
        number of devices. Those of one such group stand side by side in `devices`.
    """
    count = max(n for n in range(fsdp, len(devices) + 1, fsdp) if batch_size % n == 0)
    used = np.asarray(devices[:count])
    if fsdp == 1:
        return Mesh(used, (_AXIS,))
    return Mesh(used.reshape(-1, fsdp), (_AXIS, _FSDP))


def fsdp_size(mesh: Mesh) -> int:
    """Return the number of devices over which parameters are divided; 1: each has a whole copy."""
    return int(mesh.shape.get(_FSDP, 1))


def target(mesh: Mesh) -> AbstractContextManager[Any]:
    """Trace and lower for the devices of a mesh, which need not be of this process.

    Every choice by platform (`ops.choice`) is made for them; outside, for JAX's default device.
    """
    context: AbstractContextManager[Any] = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
    return context


def core_mesh(rows: int, least: int) -> Mesh:
    """Return a mesh of all cores if each can have at least `least` rows, else of one device.

    A core is a device of its own only after `backend.make_device_of_every_core`.
    """
    devices = jax.local_devices()
    are_cores = devices[0].platform == "cpu" and not backend.devices_are_given()
    shares = are_cores and rows % len(devices) == 0 and rows >= least * len(devices)
    default = list(jnp.zeros(()).devices())
    return make_mesh(devices if shares else default, rows)


def round_up(rows: int, mesh: Mesh) -> int:
    """Round a number of rows up to a multiple of the mesh's size."""
    return -(-rows // mesh.size) * mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a whole copy on every device."""
    return NamedSharding(mesh, WHOLE)


def split_over(mesh: Mesh) -> NamedSharding:
    """Return the sharding whose leading axis is divided over the devices."""
    return NamedSharding(mesh, _resolved(ROWS, mesh))


def split_rows_over(mesh: Mesh) -> NamedSharding:
    """Return the sharding of several batches: the second axis is divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(None, *_resolved(ROWS, mesh)))


def divided_axis(shape: tuple[int, ...], count: int) -> int | None:
    """Return the axis along which a parameter or moment is divided; None: it stays whole.

    The largest axis that `count` divides, of equal ones the first. So it holds for every array.
    """
    sizes = [size if size % count == 0 else 0 for size in shape]
    longest = max(sizes, default=0)
    return sizes.index(longest) if count > 1 and longest else None


def divided(tree: Any, mesh: Mesh) -> Any:
    """Return the sharding of each parameter or moment of a pytree, by `divided_axis`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _divided_spec(leaf.shape, mesh)), tree)


def part_bytes(leaf: Any, count: int) -> int:
    """Return the bytes of a parameter or moment, or of its shape, on each of `count` devices."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    parts = 1 if divided_axis(leaf.shape, count) is None else count
    return int(leaf.size) * int(leaf.dtype.itemsize) // parts


def whole(tree: T, mesh: Mesh) -> T:
    """Return parameters with a whole copy on every device; those that have one as they are."""
    return place(tree, replicated(mesh)) if fsdp_size(mesh) > 1 else tree


def _divided_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    axis = divided_axis(shape, fsdp_size(mesh))
    return WHOLE if axis is None else PartitionSpec(*[None] * axis, _FSDP)


def _resolved(layout: PartitionSpec, mesh: Mesh) -> PartitionSpec:
    """Return the specification of a layout: rows are divided over both axes."""
    is_rows = layout == ROWS and fsdp_size(mesh) > 1
    return PartitionSpec((_AXIS, _FSDP)) if is_rows else layout


def place(tree: T, shardings: Any, *, may_alias: bool | None = None) -> T:
    """Put arrays on the devices of their shardings, which may be those of several processes.

    Where each of them is of this process, that is `jax.device_put`. Elsewhere every process calls
    this with equal arrays, and makes its own parts of them. `device_put` would compare the
    processes' values first, on a way through float32 and int32: NaN, 2**40 and float64 are "not the
    same" there (jax 0.12).

    Args:
      tree: a pytree of arrays, typed keys and scalars. Those that are divided over processes
        already are exchanged between them.
      shardings: one for all leaves, or a pytree of them.
      may_alias: as of `jax.device_put`; if False, the result shares no memory with `tree`.
    """
    if isinstance(shardings, Sharding):
        everywhere = shardings
        shardings = jax.tree.map(lambda _: everywhere, tree)
    if all(_is_local(leaf) for leaf in (*jax.tree.leaves(tree), *jax.tree.leaves(shardings))):
        return jax.device_put(tree, shardings, may_alias=may_alias)
    return jax.tree.map(lambda leaf, where: _place_leaf(leaf, where, may_alias), tree, shardings)


def _is_local(leaf: Any) -> bool:
    """Return true for an array or a sharding whose devices are all of this process."""
    return not isinstance(leaf, jax.Array | Sharding) or leaf.is_fully_addressable


def _place_leaf(leaf: Any, sharding: NamedSharding, may_alias: bool | None) -> Array:
    """Place an array of which the devices, before or after, are of several processes."""
    copy = may_alias is False
    if not _is_local(leaf):
        where = replicated(leaf.sharding.mesh) if _is_local(sharding) else sharding
        # Between processes only a compiled program moves arrays.
        leaf = jax.jit(jnp.copy if copy else lambda x: x, out_shardings=where)(leaf)
        return jax.device_put(leaf.addressable_data(0), sharding) if _is_local(sharding) else leaf
    if _is_local(sharding):
        return jax.device_put(leaf, sharding, may_alias=may_alias)
    if not isinstance(leaf, jax.Array) or not jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    ):
        # Divided by NumPy, on no device.
        leaf = np.array(leaf, copy=copy or None)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def local_copy(tree: T, mesh: Mesh) -> T:
    """Return arrays on a device of this process alone; all processes of the mesh call this.

    In one process that changes nothing.
    """
    if mesh.is_multi_process:
        tree = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
        return first_copy(tree)
    return tree


def place_rows(tree: T, mesh: Mesh) -> T:
    """Divide arrays over the devices along their leading axis; copy scalars to each."""
    return place(
        tree, jax.tree.map(lambda x: split_over(mesh) if np.ndim(x) else replicated(mesh), tree)
    )


def first_copy(tree: T) -> T:
    """Return the arrays as the first device holds them, for work that is not worth dividing."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def constrain_batch(batch: T, mesh: Mesh) -> T:
    """Inside jit: divide every array of a batch over the devices; scalars stay whole."""
    if mesh.size == 1:
        return batch
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(
            x, split_over(mesh) if x.ndim else replicated(mesh)
        ),
        batch,
    )


def constrain_divided(tree: T, shardings: Any, mesh: Mesh) -> T:
    """Inside jit: place a state by its shardings, where a part of it may be divided."""
    if fsdp_size(mesh) == 1:
        return tree
    constrained: T = jax.lax.with_sharding_constraint(tree, shardings)
    return constrained


def on_each_device(
    function: Callable[..., T], mesh: Mesh, *layouts: PartitionSpec
) -> Callable[..., T]:
    """Inside jit: run `function` on each device's part; all that it returns has rows.

    Args:
      function: it returns arrays with a leading axis that is divided over the devices.
      mesh: the devices.
      layouts: ROWS or WHOLE for each argument; arrays among ROWS have a leading axis.
    """
    if mesh.size == 1:
        return function
    mapped: Callable[..., T] = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(_resolved(layout, mesh) for layout in layouts),
        out_specs=_resolved(ROWS, mesh),
        check_vma=False,
    )
    return mapped


def shard_rows(function: Callable[..., T], mesh: Mesh, *layouts: PartitionSpec) -> Callable[..., T]:
    """Inside jit: run `function` on each device's rows, which do not depend on one another.

    Args:
      function: it returns arrays with a leading axis of rows, and scalars that are equal on all
        devices.
      mesh: the devices.
      layouts: ROWS or WHOLE for each argument. Scalars among ROWS are whole.
    """
    if mesh.size == 1:
        return function

    def mapped(*arguments: Any) -> T:
        out: T = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=_specs(arguments, layouts, mesh),
            out_specs=_specs((jax.eval_shape(function, *arguments),), (ROWS,), mesh)[0],
            check_vma=False,
        )(*arguments)
        return out

    return mapped


def data_parallel(gradients: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """Inside jit: run `gradients` on each device's rows of the batch, and add up the sums.

    `gradients(params, scales, model_state, carry, batch, key)` returns sums over the rows, a named
    tuple whose last field is `grads`, and a pair (model_state, carry). The rows of `carry` and
    `batch` are divided, each device has a key of its own, and `model_state` has to be empty:
    statistics of the batch need all of its rows. Of divided parameters `gradients` is given the
    device's part, and returns the gradients of that part (`gather_whole`).
    """
    if mesh is None or mesh.size == 1:
        return gradients
    layouts = (WHOLE, WHOLE, ROWS, ROWS, WHOLE)

    def mapped(params: Any, *others: Any) -> Any:
        parts = jax.tree.map(lambda leaf: _divided_spec(leaf.shape, mesh), params)

        def on_device(*arguments: Any) -> Any:
            *others, key = arguments
            sums, per_row = gradients(*others, _device_key(key, mesh))
            sums = _sum_over_devices(sums, mesh, _axes(params, mesh))
            return sums._replace(grads=()), sums.grads, per_row

        sums, grads, per_row = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(parts, *_specs(others, layouts, mesh)),
            out_specs=(WHOLE, parts, _resolved(ROWS, mesh)),
            check_vma=False,
        )(params, *others)
        return sums._replace(grads=grads), per_row

    return mapped


def gather_whole(
    gradients: Callable[..., Any], params: Any, mesh: Mesh | None
) -> Callable[..., Any]:
    """Inside `data_parallel`: run `gradients` on parameters gathered from the devices' parts.

    Each device keeps its part of the sum over the devices of an axis "fsdp".

    Args:
      gradients: as of `data_parallel`, but of whole parameters.
      params: as outside `data_parallel`, or their shapes.
      mesh: the devices.
    """
    if mesh is None or fsdp_size(mesh) == 1:
        return gradients
    axes = _axes(params, mesh)

    def on_parts(params: Any, *others: Any) -> Any:
        whole = _map_divided(
            lambda x, axis: jax.lax.all_gather(x, _FSDP, axis=axis, tiled=True), params, axes
        )
        sums, aux = gradients(whole, *others)
        grads = _map_divided(
            lambda x, axis: jax.lax.psum_scatter(x, _FSDP, scatter_dimension=axis, tiled=True),
            sums.grads,
            axes,
        )
        return sums._replace(grads=grads), aux

    return on_parts


def constrain_whole(
    gradients: Callable[..., Any], params: Any, mesh: Mesh | None
) -> Callable[..., Any]:
    """As `gather_whole`, outside `data_parallel`: the compiler divides the work."""
    if mesh is None or fsdp_size(mesh) == 1:
        return gradients
    parts = divided(params, mesh)

    def constrained(params: Any, *others: Any) -> Any:
        whole = jax.lax.with_sharding_constraint(params, replicated(mesh))
        sums, aux = gradients(whole, *others)
        return sums._replace(grads=jax.lax.with_sharding_constraint(sums.grads, parts)), aux

    return constrained


def _axes(params: Any, mesh: Mesh) -> list[int | None]:
    """Return the axis along which each whole parameter is divided; None: not at all."""
    return [divided_axis(leaf.shape, fsdp_size(mesh)) for leaf in jax.tree.leaves(params)]


def _map_divided(function: Callable[[Array, int], Array], tree: T, axes: list[int | None]) -> T:
    """Map a function of (array, axis) over the divided arrays of a pytree."""
    leaves, structure = jax.tree.flatten(tree)
    mapped = [
        leaf if axis is None else function(leaf, axis)
        for leaf, axis in zip(leaves, axes, strict=True)
    ]
    return jax.tree.unflatten(structure, mapped)


def _specs(
    arguments: tuple[Any, ...], layouts: tuple[PartitionSpec, ...], mesh: Mesh
) -> tuple[Any, ...]:
    """Return a specification for each array of the arguments; scalars are whole."""
    return tuple(
        jax.tree.map(
            lambda x, layout=layout: _resolved(layout, mesh) if x.ndim else WHOLE, argument
        )
        for argument, layout in zip(arguments, layouts, strict=True)
    )


def _device_key(key: Array, mesh: Mesh) -> Array:
    """Inside `data_parallel`: return a key of this device's own."""
    axes = (_AXIS, _FSDP) if fsdp_size(mesh) > 1 else _AXIS
    return jax.random.fold_in(key, jax.lax.axis_index(axes))


def _sum_over_devices(sums: Any, mesh: Mesh, axes: list[int | None]) -> Any:
    """Add up over the devices; `axes` are those of the divided gradients.

    The sums over an axis "fsdp" of what is divided there were made by `gather_whole`.
    """
    if fsdp_size(mesh) == 1:
        return _sum(sums, _AXIS)
    leaves, structure = jax.tree.flatten(sums)
    # What comes before the gradients is whole.
    is_part = [False] * (len(leaves) - len(axes)) + [axis is not None for axis in axes]
    whole = [leaf for leaf, part in zip(leaves, is_part, strict=True) if not part]
    parts = [leaf for leaf, part in zip(leaves, is_part, strict=True) if part]
    sums_of = {False: iter(_sum(whole, (_AXIS, _FSDP))), True: iter(parts)}
    if parts and mesh.shape[_AXIS] > 1:
        sums_of[True] = iter(_sum(parts, _AXIS))
    return jax.tree.unflatten(structure, [next(sums_of[part]) for part in is_part])


def _sum(sums: T, axes: str | tuple[str, ...]) -> T:
    """Add up over the devices of axes. A CPU's meet once, for one array, and not once for each."""
    if not on_cpu():
        total: T = jax.lax.psum(sums, axes)
        return total
    leaves, tree = jax.tree.flatten(sums)
    flat = jax.lax.psum(jnp.concatenate([leaf.ravel() for leaf in leaves]), axes)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
    parts = jnp.split(flat, ends)
    return jax.tree.unflatten(
        tree, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )
