"""A Ray cluster of three nodes on this machine, for tests of what runs on several."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: The cluster sees that a node is gone in five seconds, instead of fifteen.
_QUICK = {"health_check_period_ms": 1000}
#: What would lead to another cluster or token, or to the package other than by its installation.
_FOREIGN = ("PYTHONPATH", "RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")


def wait_until(condition: Callable[[], T], what: str, seconds: float = 300.0) -> T:
    """Asks until ``condition`` gives something true, and returns that."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s until {what}"
        time.sleep(0.2)
    return value


class Nodes:
    """A head without CPUs, and two workers with two CPUs each.

    Args:
        folder: where every node has one of its own: in one, nodes remove each other's copies of
            what a job brings along.
    """

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        head: dict[str, Any] = {
            "num_cpus": 0,
            "include_dashboard": True,
            "dashboard_port": 0,
            "dashboard_agent_listen_port": 0,
            "_system_config": _QUICK,
        }
        self._folders = (f"{folder}/{i}" for i in itertools.count())
        self._commands: list[subprocess.Popen[str]] = []
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.jobs = f"http://{self._cluster.webui_url}"
        for _ in range(2):
            self.add()

    @property
    def workers(self) -> set[str]:
        """Ids of the workers that have not been removed."""
        return {node.node_id for node in self._cluster.worker_nodes}

    def add(self) -> None:
        """One more worker."""
        self._cluster.add_node(num_cpus=2, temp_dir=next(self._folders))

    def remove(self, worker: str) -> None:
        """Ends a worker as a power cut would."""
        (gone,) = (node for node in self._cluster.worker_nodes if node.node_id == worker)
        self._cluster.remove_node(gone, allow_graceful=False)

    def alive(self) -> set[str]:
        """Ids of the workers that the cluster knows."""
        from ray.util.state import list_nodes

        nodes = list_nodes(address=self.jobs)
        return {node.node_id for node in nodes if node.state == "ALIVE" and not node.is_head_node}

    def actors(self, class_name: str, state: str = "ALIVE", job: str | None = None) -> list[Any]:
        """The actors of a class in a state, as Ray calls them, of one driver or of all."""
        from ray.util.state import list_actors

        filters = [("class_name", "=", class_name), ("state", "=", state)]
        if job is not None:
            filters.append(("job_id", "=", job))
        found: list[Any] = list_actors(address=self.jobs, filters=filters, limit=1000)
        return found

    def last_driver(self) -> str:
        """Id of the process that was the last to attach."""
        from ray.util.state import list_jobs

        return max(job.job_id for job in list_jobs(address=self.jobs) if job.job_id)

    def start(self, *words: str, log: Path) -> subprocess.Popen[str]:
        """Begins a command in the folder of its ``log``; nothing leads it to this repository."""
        with log.open("w") as out:
            command = subprocess.Popen(words, cwd=log.parent, stdout=out, stderr=out, text=True)
        self._commands.append(command)
        return command

    def run(self, *words: str, log: Path) -> tuple[int, str]:
        """Runs a command to its end; exit status and output."""
        status = self.start(*words, log=log).wait(timeout=600)
        return status, log.read_text()

    def shut_down(self) -> None:
        """Ends all nodes, and what was started here and still runs."""
        for command in self._commands:
            if command.poll() is None:
                command.kill()
                command.wait()
        self._cluster.shutdown()


def _read_authentication() -> None:
    """Makes Ray read the environment again, which this process has read long ago."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def nodes(**environment: str) -> Iterator[Nodes]:
    """`Nodes` that share no folder, port or address file with any other Ray of this machine.

    Args:
        environment: of the nodes, beside that of the tests.
    """
    import ray

    ray.shutdown()  # this process may have a local Ray of earlier tests, with a token of its own
    folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
    # Jobs find `rllib` as they do where an environment is activated.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    changes = {"RAY_TMPDIR": folder, "PATH": path, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    changes |= environment
    before = {name: os.environ.get(name) for name in (*changes, *_FOREIGN)}
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ.update(changes)
    _read_authentication()
    cluster = None
    try:
        cluster = Nodes(folder)
        yield cluster
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shut_down()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _read_authentication()
        shutil.rmtree(folder, ignore_errors=True)
