"""The processes of a run as a cluster's variables show them."""

import argparse
import sys

import pytest

from charjax.cluster.launch import Launch, find_launch
from charjax.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "node[07-10],other",
    "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_VERSION": "4.1.6",
}
OTHERS = (
    *("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"),
    *("JOB_COMPLETION_INDEX", "KUBERNETES_SERVICE_HOST"),
)


def found(*flags: object, **others: object) -> Launch | None:
    names = ("processes", "process", "coordinator")
    values = dict(zip(names, flags or (None, None, None), strict=True))
    args = argparse.Namespace(**values, print_config=False, dry_run=False)
    vars(args).update(others)
    launch = find_launch(args)
    assert args.several == (launch is not None)
    return launch


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SLURM, *OPEN_MPI, *OTHERS):
        monkeypatch.delenv(name, raising=False)


def test_nothing_shows_several_processes() -> None:
    assert found() is None


def test_flags() -> None:
    assert found(2, 1, "[::1]:99") == Launch("[::1]:99", 2, 1)
    launch = found(2, 0, "node1:9911")
    assert launch is not None
    assert (launch.host, launch.port) == ("node1", 9911)
    assert found(1, 0, "node1:9911") is None


def test_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    # JAX's port: by the number of the job.
    assert found() == Launch(f"node07:{4100 % 4096 + 65535 - 4095}", 8, 3, (1,))
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x8)")
    launch = found()
    assert launch is not None
    assert launch.local_devices is None
    # Flags come first, and what starts no run is one process.
    assert found(2, 1, "node1:9911") == Launch("node1:9911", 2, 1)
    assert found(dry_run=True) is None
    # A script of sbatch that is no step of srun.
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    assert found() is None


def test_open_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    launch = found()
    assert launch is not None
    assert (launch.count, launch.index, launch.local_devices) == (4, 2, None)
    assert launch.host == "10.96.0.1"


def test_a_job_of_one_process_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of JAX, which would start a coordinator for it."""
    alone = {"SLURM_NTASKS": "1", "OMPI_COMM_WORLD_SIZE": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    for name, value in {**SLURM, **OPEN_MPI, **alone}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("charjax.cluster.launch._ask_jax", lambda environment: pytest.fail("asked"))
    assert found() is None


def test_a_cluster_that_jax_cannot_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.setenv(name, OPEN_MPI[name])
    with pytest.raises(UserError, match="give --processes, --process and --coordinator"):
        found()


def test_where_only_a_service_knows_one_process_is_assumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the package `kubernetes` JAX cannot ask."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert found() is None
    assert capsys.readouterr().err.startswith("note: a job of Kubernetes: whether it has other")
