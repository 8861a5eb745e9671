"""Runs the commands of compose.yaml side by side in one container, where there is no Docker engine.

`python check_compose.py compose.yaml`, in an image of docker/Dockerfile, with the secret in place
and `head` in /etc/hosts. All nodes share one address, so every worker's agent gets its own port.
Exits with 1, and the output of what failed, unless the head and the workers become healthy, a short
training ends with 0, and a job without the right token is refused.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

services = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))["services"]
AGENT_PORT = 52365


def words(command: str | list[str]) -> list[str]:
    """A command in either of Compose's forms."""
    return shlex.split(command) if isinstance(command, str) else command


def environment(service: str, **changes: str) -> dict[str, str]:
    """A service's environment, with changes."""
    return {**os.environ, **services[service]["environment"], **changes}


def start(service: str, *more: str) -> tuple[subprocess.Popen, Path]:
    """A service's process, with more arguments, and the file of its output."""
    log = Path(tempfile.mkdtemp()) / f"{service}.log"
    command = [*words(services[service]["command"]), *more]
    print(f"{service}: {shlex.join(command)}", flush=True)
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=environment(service), stdout=out, stderr=subprocess.STDOUT
        )
    return process, log


def wait_until_healthy(
    service: str, process: subprocess.Popen, log: Path, agent_port: int = AGENT_PORT
) -> None:
    """Repeats a service's health check until it succeeds, for two minutes."""
    test = services[service]["healthcheck"]["test"]
    assert test[0] == "CMD", test
    command = [word.replace(str(AGENT_PORT), str(agent_port)) for word in test[1:]]
    end = time.monotonic() + 120
    while True:
        check = subprocess.run(command, env=environment(service), capture_output=True, text=True)
        if check.returncode == 0:
            print(f"{service}: healthy", flush=True)
            return
        if process.poll() is not None or time.monotonic() > end:
            sys.exit(f"{service} is not healthy.\n{check.stderr}\n{log.read_text()}")
        time.sleep(2)


def submit(**changes: str) -> subprocess.CompletedProcess:
    """The job, with changes of its environment, stopped after two iterations."""
    command = [*words(services["job"]["command"]), "--stop", '{"training_iteration": 2}']
    return subprocess.run(
        command,
        env=environment("job", **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )


nodes = []
try:
    nodes.append(start("head"))
    wait_until_healthy("head", *nodes[-1])
    for port in range(AGENT_PORT + 1, AGENT_PORT + 1 + services["worker"]["deploy"]["replicas"]):
        nodes.append(start("worker", f"--dashboard-agent-listen-port={port}"))
        wait_until_healthy("worker", *nodes[-1], agent_port=port)

    for what, change in {
        "a wrong token": {"RAY_AUTH_TOKEN": "wrong"},
        "no token": {"RAY_AUTH_MODE": "disabled"},
    }.items():
        refused = submit(**change)
        if refused.returncode == 0 or "rllib" in refused.stdout.lower().split("submitted")[-1]:
            sys.exit(f"a job with {what} was not refused.\n{refused.stdout}")
        print(f"job with {what}: refused with {refused.returncode}", flush=True)

    job = submit()
    print(job.stdout, flush=True)
    if job.returncode != 0:
        sys.exit(f"the job ended with {job.returncode}.")
finally:
    for process, _ in reversed(nodes):
        process.terminate()
        process.wait(timeout=60)
