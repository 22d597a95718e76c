"""`python -m tests.placing_worker INDEX PORT`: place arrays over two processes of two devices.

It prints a line for each way that was checked.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from charjax import parallel


def main(index: int, port: str) -> None:
    """Check what `charjax.parallel.place` makes of arrays, keys and scalars."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, index, initialization_timeout=60)
    mesh = parallel.make_mesh(jax.devices(), 4)
    assert mesh.size == 4
    whole, rows = parallel.replicated(mesh), parallel.split_over(mesh)
    numbers_42 = np.arange(8, dtype=np.float32).reshape(4, 2) + np.float32(0.1)
    numbers_42[1, 1] = np.nan
    tree = {
        "nan": numbers_42,
        "here": jnp.asarray(numbers_42),
        "large": np.uint32(2**32 - 1),
        "key": jax.random.key(3),
        "scalar": 0.1,
    }

    placed = parallel.place(tree, whole)
    for name, leaf in placed.items():
        assert leaf.sharding == whole, name
        assert equal(leaf.addressable_data(0), tree[name]), name
    print("whole")

    by_row = {"rows": numbers_42, "keys": jax.random.split(tree["key"], 4)}
    divided = parallel.place_rows(by_row, mesh)
    for name, expected in by_row.items():
        assert divided[name].sharding == rows
        for shard in divided[name].addressable_shards:
            # That of keys is of their numbers, and has an axis more.
            assert shard.data.shape[0] == 1
            assert equal(shard.data, expected[shard.index[0]]), name
    print("rows")

    # From one layout over all processes to another, and to the devices of this one.
    back = parallel.place(divided["rows"], whole)
    assert equal(back.addressable_data(0), numbers_42)
    local = Mesh(np.asarray(jax.local_devices()), mesh.axis_names)
    here = parallel.place(divided["rows"], parallel.replicated(local))
    assert here.is_fully_addressable
    assert equal(here, numbers_42)
    copied = parallel.place(back, whole, may_alias=False)
    pointers = [x.addressable_data(0).unsafe_buffer_pointer() for x in (back, copied)]
    assert pointers[0] != pointers[1]
    print("moved")
    # The coordinator is the last to leave.
    multihost_utils.sync_global_devices("done")


def equal(actual: Any, expected: Any) -> bool:
    """Return true if two arrays, or two keys, are equal to the bit."""
    arrays = [
        jax.random.key_data(x) if isinstance(x, jax.Array) and is_key(x) else x
        for x in (actual, expected)
    ]
    first = np.asarray(arrays[0])
    return first.tobytes() == np.asarray(arrays[1], first.dtype).tobytes()


def is_key(array: jax.Array) -> bool:
    """Return true for typed keys."""
    return jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
