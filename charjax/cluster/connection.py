"""Connecting the processes of a run before JAX starts, and ending them together."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO

import jax

from charjax import cli, processes
from charjax.cluster.coordinator import HEARTBEAT_SECONDS, READY
from charjax.cluster.launch import Launch
from charjax.cluster.peers import Peers
from charjax.errors import UserError, one_line
from charjax.processes import PeerError
from charjax.signals import Interrupted

# All processes have to have come within so many seconds; a little more than a port may stay in use.
_CONNECT_SECONDS = 40.0
# JAX aborts with a stack trace when its own time is over: this process ends before.
_NEVER = 3600


@contextlib.contextmanager
def connected(launch: Launch | None) -> Iterator[None]:
    """Connect this process to the others of its run, and leave together with them.

    It is called before JAX starts a device. An exception ends all processes: `cli.run` announces
    it to the others.

    Args:
      launch: of this process; None: it is the only one, and nothing is started.

    Raises:
      UserError: the coordinator or other processes did not answer in time.
      PeerError: another process has ended.
    """
    if launch is None:
        yield
        return
    with _python_stdout():
        coordinator = _connect(launch)
        peers = Peers()
        peers.start()
        cli.announce_end(peers.announce)
        try:
            yield
        except (UserError, OSError, Interrupted):
            raise
        except Exception as error:
            # A sum over devices fails where another process has ended: JAX says only that.
            if (ending := peers.explain_failure()) is None:
                raise
            raise PeerError(f"process {ending.process}: {ending.reason}") from error
        _leave(peers, coordinator)


def _connect(launch: Launch) -> subprocess.Popen[str] | None:
    """Connect; return the coordinator's process, in process 0."""
    # gRPC would ask a proxy for the way to a machine of the same cluster.
    for name in ("no_grpc_proxy", "NO_GRPC_PROXY"):
        others = os.environ.get(name)
        os.environ[name] = ",".join(filter(None, [others, launch.host]))
    # It would warn of the variable.
    jax.config.update("jax_check_proxy_envs", False)
    # It would handle SIGTERM; `charjax.signals` does.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    began = time.monotonic()
    coordinator = _start_coordinator(launch) if launch.index == 0 else None
    if coordinator is None:
        _wait_for_coordinator(launch, began)
    too_late = threading.Timer(_left(began), _give_up, [launch])
    too_late.daemon = True
    too_late.start()
    try:
        jax.distributed.initialize(
            launch.address,
            launch.count,
            launch.index,
            local_device_ids=launch.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=_NEVER,
            # A service that nobody uses: the one at `address` is the coordinator's.
            coordinator_bind_address="127.0.0.1:0",
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=5,
        )
        processes.check_count()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--coordinator: process {launch.index} cannot join the run at {launch.address} "
            f"({one_line(error)}); start every process once, with a number of its own"
        ) from None
    finally:
        too_late.cancel()
    return coordinator


def _left(began: float) -> float:
    return max(1.0, _CONNECT_SECONDS - (time.monotonic() - began))


def _start_coordinator(launch: Launch) -> subprocess.Popen[str]:
    """Start the coordinator, and wait until it serves."""
    code = [sys.executable, "-m", "charjax.cluster.coordinator"]
    coordinator = subprocess.Popen(
        [*code, f"{_interface(launch.host)}:{launch.port}", str(launch.count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A signal for the run's terminal or group is not for it.
        start_new_session=True,
    )
    assert coordinator.stdout is not None
    answer = _read_line(coordinator.stdout, _CONNECT_SECONDS)
    if answer != READY:
        raise UserError(
            f"--coordinator: process 0 cannot serve at {launch.address} "
            f"({answer or 'its coordinator does not start'}); name this machine and a free port"
        )
    return coordinator


def _interface(host: str) -> str:
    """Return the address to listen at: of this machine alone for a loopback, else any."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise UserError(
            f"--coordinator: the host {host!r} is not known here ({error.strerror}); name the host "
            "of process 0"
        ) from None
    versions_4 = sorted(str(address) for address in found if ":" not in str(address))
    if versions_4:
        return versions_4[0] if versions_4[0].startswith("127.") else "0.0.0.0"
    return "[::1]" if found == {"::1"} else "[::]"


def _read_line(pipe: IO[str], seconds: float) -> str:
    ready, _, _ = select.select([pipe], [], [], seconds)
    return pipe.readline().strip() if ready else ""


def _wait_for_coordinator(launch: Launch, began: float) -> None:
    """Wait until somebody listens at the coordinator's address."""
    reason = ""
    while time.monotonic() < began + _CONNECT_SECONDS:
        try:
            with socket.create_connection((launch.host, launch.port), timeout=5):
                return
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(0.2)
    raise UserError(
        f"--coordinator: nobody answers at {launch.address} for {_CONNECT_SECONDS:.0f} s "
        f"({reason}); start process 0 there, and all within that time"
    )


def _give_up(launch: Launch) -> None:
    """End the process, whose main thread waits in JAX for processes that do not come."""
    cli.complain(
        f"--processes: {launch.count} given, and not all have come to {launch.address} within "
        f"{_CONNECT_SECONDS:.0f} s; start each of 0 to {launch.count - 1} once, all within that "
        "time"
    )
    sys.stderr.flush()
    os._exit(2)


def _leave(peers: Peers, coordinator: subprocess.Popen[str] | None) -> None:
    """Wait until all are here, and disconnect: no process loses one that it needs."""
    # Not a barrier with a limit: the first process may have to upload what others wait for.
    processes.gather("end")
    cli.announce_end(None)
    peers.stop()
    jax.distributed.shutdown()
    if coordinator is not None and coordinator.stdin is not None:
        # It ends when no process is connected any more, and that is when they have ended: nobody
        # waits for it.
        coordinator.stdin.close()
        coordinator.returncode = 0


@contextlib.contextmanager
def _python_stdout() -> Iterator[None]:
    """Keep Python's standard output; the lines that libraries print in C++ go nowhere.

    Gloo prints one for every group of devices, on standard output.
    """
    sys.stdout.flush()
    python, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    before = sys.stdout
    with open(python, "w", encoding=before.encoding, errors=before.errors, buffering=1) as stdout:
        sys.stdout = stdout
        try:
            yield
        finally:
            stdout.flush()
            os.dup2(python, 1)
            sys.stdout = before
