"""The mesh of devices, and how arrays and work are divided over it.

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

_AXIS = "data"
# Layouts of an argument: its leading axis divided over the devices, or a whole copy on each.
ROWS, WHOLE = PartitionSpec(_AXIS), PartitionSpec()
T = TypeVar("T")


def make_mesh(devices: list[jax.Device], batch_size: int) -> Mesh:
    """Return a mesh of the largest number of devices that divides the batch."""
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return Mesh(np.asarray(devices[:count]), (_AXIS,))


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
    return NamedSharding(mesh, ROWS)


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
        function, mesh=mesh, in_specs=layouts, out_specs=ROWS, check_vma=False
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
            in_specs=_specs(arguments, layouts),
            out_specs=_specs((jax.eval_shape(function, *arguments),), (ROWS,))[0],
            check_vma=False,
        )(*arguments)
        return out

    return mapped


def data_parallel(gradients: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """Inside jit: run `gradients` on each device's rows of the batch, and add up the sums.

    `gradients(params, scales, model_state, carry, batch, key)` returns sums over the rows, and a
    pair (model_state, carry). The rows of `carry` and `batch` are divided, each device has a key
    of its own, and `model_state` has to be empty: statistics of the batch need all of its rows.
    """
    if mesh is None or mesh.size == 1:
        return gradients
    layouts = (WHOLE, WHOLE, WHOLE, ROWS, ROWS, WHOLE)

    def on_device(*arguments: Any) -> Any:
        *others, key = arguments
        sums, per_row = gradients(*others, device_key(key))
        return _sum_over_devices(sums), per_row

    def mapped(*arguments: Any) -> Any:
        return jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=_specs(arguments, layouts),
            out_specs=(WHOLE, ROWS),
            check_vma=False,
        )(*arguments)

    return mapped


def _specs(arguments: tuple[Any, ...], layouts: tuple[PartitionSpec, ...]) -> tuple[Any, ...]:
    """Return a specification for each array of the arguments; scalars are whole."""
    return tuple(
        jax.tree.map(lambda x, layout=layout: layout if x.ndim else WHOLE, argument)
        for argument, layout in zip(arguments, layouts, strict=True)
    )


def device_key(key: Array) -> Array:
    """Inside `data_parallel` and `shard_rows`: return a key of this device's own."""
    return jax.random.fold_in(key, jax.lax.axis_index(_AXIS))


def _sum_over_devices(sums: T) -> T:
    """Add up over the devices. A CPU's meet once, for one array, and not once for each."""
    if not on_cpu():
        total: T = jax.lax.psum(sums, _AXIS)
        return total
    leaves, tree = jax.tree.flatten(sums)
    flat = jax.lax.psum(jnp.concatenate([leaf.ravel() for leaf in leaves]), _AXIS)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
    parts = jnp.split(flat, ends)
    return jax.tree.unflatten(
        tree, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )
