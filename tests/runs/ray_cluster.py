"""A Ray cluster of this host, in a process of its own: Ray changes the signal handlers of the process that has it.

    python -m tests.runs.ray_cluster CPUS

It prints the address. Each line `add CPUS` on standard input adds a node and prints the process id of its raylet, whose
children are the node's workers; `remove` kills that node. The cluster ends with the input.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import pytest

API_KEY = "sk-of-the-nodes-0123456789"
"""Value of `RAY_TEST_KEY` in the environment of the nodes."""


class RayCluster:
    """A cluster of one node, to which others are added.

    Args:
        cpus: CPUs of the first node.

    Attributes:
        address: Its address.
        folder: Ray's folder, with the logs of all processes.
    """

    address: str

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus
        # Not in that of a test, whose path is too long for a socket.
        self._kept = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)
        self.folder = Path(self._kept.name)

    def __enter__(self) -> Self:
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(self.folder), "RAY_TEST_KEY": API_KEY}
        environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.runs.ray_cluster", str(self._cpus)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environ, **quiet},
            text=True,
        )
        self.address = self._line()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        self._kept.cleanup()

    def add_node(self, cpus: int) -> int:
        """Add a node. Returns the process id of its raylet."""
        return int(self._answer(f"add {cpus}"))

    def remove_node(self) -> None:
        """Kill the node that was added."""
        self._answer("remove")

    def _answer(self, line: str) -> str:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout
        while (line := self._process.stdout.readline()).strip():
            if line.startswith("ANSWER "):  # Ray prints, too
                return line.split()[1]
        raise AssertionError(f"the cluster ended with {self._process.wait()}")


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    """A cluster that the tests of a module share."""
    if not find_spec("ray.cluster_utils" if find_spec("ray") else "ray"):
        pytest.skip("the extra `ray` is not installed")
    with RayCluster(cpus=8) as cluster:
        yield cluster


@pytest.fixture
def joined(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """The cluster, which `engine: ray` joins."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    return ray_cluster


def main() -> None:
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"object_store_memory": 80 * 2**20}
    head = {"num_cpus": int(sys.argv[1]), "include_dashboard": False, **node}
    cluster, added = Cluster(initialize_head=True, head_node_args=head), []
    print("ANSWER", cluster.address, flush=True)
    for line in sys.stdin:
        match line.split():
            case ["add", cpus]:
                added.append(cluster.add_node(num_cpus=int(cpus), **node))
                print("ANSWER", added[-1].all_processes["raylet"][0].process.pid, flush=True)
            case _:
                cluster.remove_node(added.pop(), allow_graceful=False)
                print("ANSWER removed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
