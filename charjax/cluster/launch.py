"""The processes of a run as they were started: by flags, or by a cluster that JAX knows.

JAX is imported only where the environment shows several processes.
"""

import argparse
import dataclasses
import glob
import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from charjax import cli
from charjax.errors import UserError, one_line, printable

# Seconds that a cluster's services may take to name the coordinator.
_SECONDS = 40
_MOST = 100_000


@dataclasses.dataclass(frozen=True)
class Launch:
    """A process among those of a run.

    Attributes:
      address: HOST:PORT of the coordinator, which process 0 starts.
      count: number of processes, at least 2.
      index: of this one, from 0.
      local_devices: the accelerators of this machine that it uses; None: all.
    """

    address: str
    count: int
    index: int
    local_devices: tuple[int, ...] | None = None

    @property
    def host(self) -> str:
        """The coordinator's host, without the brackets of an IPv6 address."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The coordinator's port."""
        return int(self.address.rpartition(":")[2])


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add --processes, --process and --coordinator."""
    parser.add_argument(
        "--processes",
        metavar="N",
        type=cli.whole_number(1, _MOST),
        help="train in so many processes, on one machine or several: start the same command for "
        "each (under SLURM, Open MPI and on TPU pods without these three flags)",
    )
    parser.add_argument(
        "--process",
        metavar="I",
        type=cli.whole_number(0, _MOST),
        help="the number of this one, from 0; process 0 writes the run",
    )
    parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="a host of process 0 that all reach, and a free port there",
    )


def find_launch(args: argparse.Namespace) -> Launch | None:
    """Return how this process was started: by the flags, or else as the environment shows.

    Args:
      args: with the flags of `add_processes`; `several` is set to whether there are others.

    Returns:
      None for a run of one process, and where no run is started.

    Raises:
      UserError: some flags are missing or do not fit together, or a cluster does not say who is
        who.
    """
    launch = _by_flags(args.processes, args.process, args.coordinator)
    checks = [flag for flag in ("print_config", "dry_run") if getattr(args, flag)]
    if launch is not None and checks:
        raise UserError(
            f"--processes: {launch.count} given, but --{checks[0].replace('_', '-')} checks in one "
            "process: leave one out"
        )
    if args.processes is None and not checks:
        launch = _detect(os.environ)
    args.several = launch is not None
    return launch


def _by_flags(processes: int | None, process: int | None, coordinator: str | None) -> Launch | None:
    flags = {"--processes": processes, "--process": process, "--coordinator": coordinator}
    missing = [flag for flag, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return None
    if missing:
        present = next(flag for flag in flags if flag not in missing)
        raise UserError(
            f"{missing[0]}: not given, but {present} is; several processes need all of --processes "
            "N --process I --coordinator HOST:PORT"
        )
    assert processes is not None
    assert process is not None
    assert coordinator is not None
    if not 0 <= process < processes:
        raise UserError(
            f"--process: {process} given; with --processes {processes} it is from 0 to "
            f"{processes - 1}"
        )
    return Launch(_checked(coordinator), processes, process) if processes > 1 else None


def _checked(address: str) -> str:
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536
    # An IPv6 address has colons, too.
    if not host or not is_port or (":" in host and not host.startswith("[")):
        raise UserError(
            f"--coordinator: {address!r} given; name the host of process 0 and a free port there: "
            "HOST:PORT, [IPV6]:PORT"
        )
    return address


def _detect(environment: Mapping[str, str]) -> Launch | None:
    """Return what a cluster shows, by JAX's own rules; None for one process."""
    launcher = _launcher(environment)
    guess = None if launcher else _possible_launcher(environment)
    if not launcher and not guess:
        return None
    try:
        with warnings.catch_warnings():
            # JAX warns where it cannot ask Kubernetes.
            warnings.simplefilter("ignore")
            found = _ask_jax(environment)
        reason = "JAX does not find them" if found is None else ""
    # Whatever a cluster's services raise.
    except Exception as error:
        found, reason = None, one_line(error)
    if launcher and reason:
        raise UserError(
            f"--processes: {launcher} has started several processes, and which is which is not "
            f"known ({reason}); give --processes, --process and --coordinator"
        )
    if guess and reason:
        cli.remark(
            f"{guess}: whether it has other processes is not known ({reason}); training in one"
        )
    return found if found and found.count > 1 else None


def _launcher(environment: Mapping[str, str]) -> str | None:
    """Return the program that shows to have started several processes, or None.

    A job of one process stays one: nothing is asked of any service.
    """
    if "SLURM_STEP_NODELIST" in environment and _number(environment, "SLURM_NTASKS") > 1:
        return "SLURM"
    if _number(environment, "OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    tpus = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    if any("," in environment.get(name, "") for name in tpus):
        return "a TPU pod"
    return None


def _possible_launcher(environment: Mapping[str, str]) -> str | None:
    """Return what may have started several processes, which only its services can say, or None."""
    if "JOB_COMPLETION_INDEX" in environment and "KUBERNETES_SERVICE_HOST" in environment:
        return "a job of Kubernetes"
    has_tpus = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    if has_tpus and "TPU_SKIP_MDS_QUERY" not in environment and find_spec("libtpu"):
        return "a machine with TPUs"
    return None


def _ask_jax(environment: Mapping[str, str]) -> Launch | None:
    """Return what JAX's rules for clusters find; no public function gives it."""
    from jax._src.clusters import ClusterEnv

    clusters: list[Any] = ClusterEnv._cluster_types
    cluster = next(
        (one for one in clusters if not one.opt_in_only_method and one.is_env_present()), None
    )
    if cluster is None:
        return None
    count = int(cluster.get_process_count())
    if count < 2:
        return Launch("", count, 0)
    port = environment.get("JAX_COORDINATOR_PORT")
    address = environment.get("JAX_COORDINATOR_ADDRESS") or cluster.get_coordinator_address(
        timeout_secs=_SECONDS, override_coordinator_port=port
    )
    local = cluster.get_local_process_id()
    shared = local is not None and not _is_alone_on_machine(environment)
    devices = (int(local),) if shared else None
    return Launch(printable(address), count, int(cluster.get_process_id()), devices)


def _is_alone_on_machine(environment: Mapping[str, str]) -> bool:
    """Return true where each machine has one process, which then has all of its accelerators.

    JAX would give it one of them.
    """
    slurm = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    return slurm.partition("(")[0] == "1" or _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE") == 1


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() else 0
