"""Placing arrays on the devices of several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_two_processes_place_the_same_values():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # gRPC would ask the proxy for the other process.
    env = {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}
    pair = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.placing_worker", str(index), str(port)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        for process in pair:
            stdout, stderr = process.communicate(timeout=100)
            # Gloo prints there, too.
            assert {"whole", "rows", "moved"} <= set(stdout.split()), stderr
            assert process.returncode == 0, stderr
    finally:
        for process in pair:
            process.kill()
