"""JAX's coordination service as a process: `python -m charjax.cluster.coordinator HOST:PORT N`.

Process 0 starts it and holds its standard input. In process 0 itself, as
`jax.distributed.initialize` would have it, the service would end with that: JAX (0.10 to 0.12)
aborts every process that loses it, before a reason could be given. Here it outlives process 0
until the others have left.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

# The service declares a process dead after so many seconds without a sign of life.
HEARTBEAT_SECONDS = 30
# It stays at most so long after process 0 has ended: the others notice that before.
_LINGER_SECONDS = 50.0
# Another run's coordinator may be about to leave the port.
_PORT_SECONDS = 30.0
READY = "ready"


def main(address: str, count: int) -> None:
    """Serve until standard input ends and no process is connected; report on standard output."""
    # The signals are meant for the run, which has its own end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _wait_for_port(address)
        service = _serve(address, count)
    except (OSError, RuntimeError) as error:
        print(str(error).strip().partition("\n")[0], flush=True)
        return
    print(READY, flush=True)
    sys.stdin.read()
    ends = time.monotonic() + _LINGER_SECONDS
    port = int(address.rpartition(":")[2])
    while time.monotonic() < ends and _is_connected(port):
        time.sleep(0.05)
    service.shutdown()
    os._exit(0)


def _serve(address: str, count: int) -> Any:
    # No public function starts the service alone.
    from jax._src.lib import _jax

    return _jax.get_distributed_runtime_service(
        address,
        count,
        heartbeat_timeout=HEARTBEAT_SECONDS,
        shutdown_timeout=1,
        # One that ends does not make JAX abort the others; `charjax.cluster.peers` ends them.
        recoverable=True,
    )


def _wait_for_port(address: str) -> None:
    """Wait until nobody listens at the port: gRPC would share it with an earlier coordinator."""
    host, _, port = address.rpartition(":")
    ends = time.monotonic() + _PORT_SECONDS
    family = socket.AF_INET6 if host.startswith("[") and socket.has_ipv6 else socket.AF_INET
    while True:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host.strip("[]"), int(port)))
                probe.listen()
                return
        except OSError:
            if time.monotonic() > ends:
                raise
        time.sleep(0.2)


def _is_connected(port: int) -> bool:
    """Return true if a process is connected to a port here; true where Linux does not show it."""
    rows = []
    for name in ("tcp", "tcp6"):
        table = Path("/proc/self/net") / name
        if table.exists():
            rows += [line.split() for line in table.read_text("ascii").splitlines()[1:]]
    if not rows:
        return not Path("/proc/self/net/tcp").exists()
    established = "01"
    return any(row[1].rpartition(":")[2] == f"{port:04X}" and row[3] == established for row in rows)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
