"""Devices: starting the backend, the mesh, and what lies where on it.

The only file that names a mesh axis.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from charjax import backend

_AXIS = "data"
T = TypeVar("T")


def make_mesh(devices: list[jax.Device], batch_size: int) -> Mesh:
    """A mesh of the largest number of devices that divides the batch."""
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return Mesh(np.asarray(devices[:count]), (_AXIS,))


def round_up(rows: int, mesh: Mesh) -> int:
    """The least multiple of the mesh's size that holds so many rows."""
    return -(-rows // mesh.size) * mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_over(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def on_each_device(
    function: Callable[..., T], mesh: Mesh, split: tuple[bool, ...]
) -> Callable[..., T]:
    """Inside jit: `function` run by every device on its own part.

    Args:
      function: of as many arguments as `split` has places; what it gives has a leading axis that
        is split.
      mesh: the devices.
      split: of each argument, whether its leading axis is split over them; otherwise it is whole.
    """
    if mesh.size == 1:
        return function
    specs = tuple(PartitionSpec(_AXIS) if each else PartitionSpec() for each in split)
    mapped: Callable[..., T] = jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(_AXIS), check_vma=False
    )
    return mapped


def summed_over_devices(
    function: Callable[..., tuple[T, Any]], mesh: Mesh, split: tuple[bool, ...]
) -> Callable[..., tuple[T, Any]]:
    """Inside jit: `function` run by every device on its own part, and what it sums, added up.

    Args:
      function: of as many arguments as `split` has places. It gives sums over its part of the
        batch, and what is each row's own, whose leading axes are split.
      mesh: the devices.
      split: of each argument, whether the leading axes of its arrays are split over them;
        otherwise, and where there are none, it is whole.
    """
    if mesh.size == 1:
        return function

    def on_part(*arguments: Any) -> tuple[T, Any]:
        sums, own = function(*arguments)
        return _added_up(sums), own

    def mapped(*arguments: Any) -> tuple[T, Any]:
        out: tuple[T, Any] = jax.shard_map(
            on_part,
            mesh=mesh,
            in_specs=_rows_of(arguments, split),
            out_specs=(PartitionSpec(), PartitionSpec(_AXIS)),
            check_vma=False,
        )(*arguments)
        return out

    return mapped


def shard_rows(function: Callable[..., T], mesh: Mesh, split: tuple[bool, ...]) -> Callable[..., T]:
    """Inside jit: `function` run by every device on its own rows, which need nothing of others.

    Args:
      function: it gives arrays with a leading axis of rows, and scalars that are the same for all.
      mesh: the devices.
      split: as of `summed_over_devices`.
    """
    if mesh.size == 1:
        return function

    def mapped(*arguments: Any) -> T:
        out: T = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=_rows_of(arguments, split),
            out_specs=_rows_of((jax.eval_shape(function, *arguments),), (True,))[0],
            check_vma=False,
        )(*arguments)
        return out

    return mapped


def _rows_of(arguments: tuple[Any, ...], split: tuple[bool, ...]) -> tuple[Any, ...]:
    """Specifications: the leading axes of those that are split, where there are any."""
    return tuple(
        jax.tree.map(
            lambda x, divided=divided: PartitionSpec(*[_AXIS] * bool(divided and x.ndim)),
            argument,
        )
        for argument, divided in zip(arguments, split, strict=True)
    )


def core_mesh(rows: int, least: int) -> Mesh:
    """A mesh of all cores, if each is a device and can have so many rows; of one device, if not."""
    devices = jax.local_devices()
    are_cores = devices[0].platform == "cpu" and not backend.devices_are_given()
    shares = are_cores and rows % len(devices) == 0 and rows >= least * len(devices)
    # The one is where JAX puts what it is not told to put elsewhere.
    alone = list(jnp.zeros(()).devices())
    return make_mesh(devices if shares else alone, rows)


def place_rows(tree: T, mesh: Mesh) -> T:
    """Arrays with a leading axis of rows, divided over the devices; scalars are everywhere."""
    return jax.device_put(
        tree, jax.tree.map(lambda x: split_over(mesh) if np.ndim(x) else replicated(mesh), tree)
    )


def device_key(key: Array) -> Array:
    """Inside `summed_over_devices`: random numbers of this device's own."""
    return jax.random.fold_in(key, jax.lax.axis_index(_AXIS))


def _added_up(sums: T) -> T:
    """The sum over the devices. A CPU's meet once, over one array, and not once for each."""
    if jax.default_backend() != "cpu":
        total: T = jax.lax.psum(sums, _AXIS)
        return total
    leaves, tree = jax.tree.flatten(sums)
    flat = jax.lax.psum(jnp.concatenate([leaf.ravel() for leaf in leaves]), _AXIS)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
    parts = jnp.split(flat, ends)
    return jax.tree.unflatten(
        tree, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    )


def first_copy(tree: T) -> T:
    """The same arrays as the first device has them, for work that is not worth dividing."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def constrain_batch(batch: T, mesh: Mesh) -> T:
    """Inside jit: split every array of a batch over the devices (scalars stay whole)."""
    if mesh.size == 1:
        return batch
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(
            x, split_over(mesh) if x.ndim else replicated(mesh)
        ),
        batch,
    )
