"""A row of `make aot` with a fault in the training step.

    python -m tests.aot.planted WHAT TARGET

In a process of its own, as every row is: XLA's flags are read once.
"""

import json
import sys
from typing import Any

from benchmarks import aot_row, aot_workloads
from charjax.training import program


def main(what: str, target: str) -> None:
    """Plant the fault, compile, and print the row."""
    plain = program.make_train_step

    def planted(*settings: Any) -> Any:
        step, mesh = plain(*settings), settings[-1]

        def with_fault(*arguments: Any) -> Any:
            state, metrics = step(*arguments)
            loss = FAULTS[what](metrics[0], mesh)
            return state, metrics._replace(**{metrics._fields[0]: loss})

        return with_fault

    program.make_train_step = planted
    device, _, count = target.partition(":")
    workload = aot_workloads.workloads()["tiny-bigram"]
    row = aot_row.compile_row(workload, aot_row.Target(device, int(count)))
    print(json.dumps(row))


def _print(loss: Any, mesh: Any) -> Any:
    import jax

    jax.debug.print("loss {}", loss)
    return loss


def _through_the_host(loss: Any, mesh: Any) -> Any:
    """Copy to the host's memory and back."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    for kind in ("pinned_host", "device"):
        loss = jax.device_put(loss, NamedSharding(mesh, PartitionSpec(), memory_kind=kind))
    return loss


def _loop(loss: Any, mesh: Any) -> Any:
    """Compute in a loop whose turns XLA cannot count, with work of the host in it."""
    import jax
    from jax.experimental.compute_on import compute_on

    where = {"compute_type": "device_host", "out_memory_spaces": jax.memory.Space.Device}
    return jax.lax.while_loop(lambda x: x > 1, compute_on(lambda x: x * 0.5, **where), loss)


FAULTS = {"print": _print, "transfer": _through_the_host, "host loop": _loop}

if __name__ == "__main__":
    main(*sys.argv[1:])
