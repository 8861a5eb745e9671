"""Trainings on a cluster of three nodes: the commands of docs/guides/scaling.md, lost nodes."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.clusters import Nodes, nodes, wait_until

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.experiments.train.ray_session import RunOptions, check_shared, connection

ROOT = Path(__file__).parent.parent

#: How the page's commands begin.
TRAIN = "rllib train file tuned_examples/srsv_smac.yaml"
TRAIN_MANY = "rllib train file tuned_examples/mat_dubins_car_1024.yaml"
EXPORT, TOKEN = "export RAY_AUTH_MODE=token RAY_JOB", "ray get-auth-token"
HEAD, WORKER = "ray start --head", "ray start --address"
SUBMIT, STOP = "ray job submit", "ray job stop"

#: Settings of a MAT whose iterations take less than a second.
TINY: dict[str, Any] = {
    "num_env_runners": 3,
    "num_envs_per_env_runner": 16,
    "rollout_fragment_length": 50,
    "num_epochs": 1,
    "embed_dim": 16,
    "seed": 1,
}
#: What one of its runners plays in an iteration.
SHARE = 16 * 50


def page() -> list[str]:
    """The page's commands, but for those of its part on containers."""
    text = (ROOT / "docs" / "guides" / "scaling.md").read_text(encoding="utf-8")
    text = text.partition("\n## Containers")[0]
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def written(begin: str) -> list[str]:
    """The words of the page's only command that begins so."""
    (command,) = (line for line in page() if line.startswith(begin))
    return shlex.split(command)


def here(
    words: list[str], cluster: Nodes, folder: Path, experiment: dict[str, Any] | None = None
) -> list[str]:
    """A command of the page with this cluster's addresses, for two runners.

    ``folder`` stands for the shared folder, and there lies the experiment: the example with one
    short iteration, or the one that is given.
    """
    words = list(words)
    for i, word in enumerate(words):
        if word.startswith("tuned_examples/"):
            words[i] = str(folder / "experiment.yaml")
            example = yaml.safe_load((ROOT / word).read_text(encoding="utf-8"))
            Path(words[i]).write_text(yaml.safe_dump(experiment or short(example)))
        elif words[i - 1] == "--num-env-runners":
            words[i] = "2"
        else:
            word = word.replace("HEAD:6379", cluster.address)
            word = word.replace("http://127.0.0.1:8265", cluster.jobs)
            words[i] = word.replace("/shared", str(folder))
    return words


def short(example: dict[str, Any]) -> dict[str, Any]:
    """The example with one iteration of a few steps."""
    ((name, spec),) = example.items()
    spec["config"] |= {"num_envs_per_env_runner": 2, "rollout_fragment_length": 4}
    spec["config"] |= {"num_env_runners": 2, "num_epochs": 1, "minibatch_size": None}
    spec["config"].pop("evaluation_interval", None)
    spec["stop"] = {"training_iteration": 1}
    return {name: spec}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The results of the only trial below a folder, so far."""
    files = list(folder.glob("*/*/result.json"))
    lines = files[0].read_text().splitlines(keepends=True) if files else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def env_steps(results: list[dict[str, Any]]) -> list[int]:
    return [int(row["num_env_steps_sampled_lifetime"]) for row in results]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    exported = dict(word.split("=") for word in written(EXPORT)[1:])
    with nodes(**exported) as cluster:
        yield cluster
        # No command has ended the cluster, and none has left anything running in it.
        assert cluster.alive() == cluster.workers
        for class_name in ("MAT", "SrSv", "TeamEnvRunner"):
            assert cluster.actors(class_name) == []


# --- the page's commands --------------------------------------------------------------------------


def test_no_command_escapes_the_tests() -> None:
    tested = [TRAIN, TRAIN_MANY, EXPORT, TOKEN, HEAD, WORKER, SUBMIT, STOP]
    others = [line for line in page() if not line.startswith(tuple(tested))]
    # The workers', of which the cluster's nodes here get what the head's says.
    assert others == [shlex.join(written(EXPORT)[:2])]
    assert len(page()) == len(tested) + 1


def test_a_token_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(written(TOKEN), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".ray" / "auth_token").read_text().strip() == done.stdout.split()[-1]


def test_where_jobs_are_submitted_is_no_address_to_attach_to() -> None:
    options = RunOptions(ray_address="http://127.0.0.1:8265")
    line = "ray job submit --address http://127.0.0.1:8265 -- rllib train"
    with pytest.raises(UserError, match=line), connection(options):
        pass


@pytest.mark.parametrize("begin", [HEAD, WORKER])
def test_nodes_are_started_with_options_that_ray_has(begin: str) -> None:
    from ray.scripts.scripts import cli

    options = cli.commands["start"].make_context("start", written(begin)[2:]).params
    assert options["head"] is (begin == HEAD)
    if begin == HEAD:
        assert (options["port"], options["num_cpus"]) == (6379, 0)
    else:
        assert options["address"] == "HEAD:6379"


@pytest.mark.parametrize(
    ("begin", "key", "value"), [(TRAIN_MANY, "num_agents", 1024), (TRAIN, "map_name", "3s5z")]
)
def test_the_command_trains_on_two_nodes(
    begin: str, key: str, value: Any, cluster: Nodes, tmp_path: Path
) -> None:
    status, output = cluster.run(*here(written(begin), cluster, tmp_path), log=tmp_path / "log")
    assert status == 0, output
    (row,) = rows(tmp_path / "results")
    assert row["config"]["env_config"][key] == value
    assert env_steps([row]) == [2 * 2 * 4]
    assert len(list(tmp_path.glob("results/*/*/checkpoint_*"))) == 1
    job = cluster.last_driver()
    wait_until(lambda: not cluster.actors("TeamEnvRunner", job=job), "the runners are gone")
    runners = cluster.actors("TeamEnvRunner", "DEAD", job)
    assert {runner.node_id for runner in runners} == cluster.workers


def test_a_stopped_job_leaves_a_checkpoint_and_goes_on(cluster: Nodes, tmp_path: Path) -> None:
    # Iterations that outlast the three seconds that Ray waits of itself.
    config = {**TINY, "num_envs_per_env_runner": 64, "rollout_fragment_length": 1000}
    experiment = {"run": "MAT", "env": "distinct_actions", "config": config}
    experiment["stop"] = {"training_iteration": 3}
    submit = here(written(SUBMIT), cluster, tmp_path, {"tiny": experiment})
    log = tmp_path / "log"
    submitted = cluster.start(*submit, log=log)
    wait_until(lambda: "iteration 1 " in log.read_text(), "the job has begun")
    stop = here(written(STOP), cluster, tmp_path)
    status, output = cluster.run(*stop, log=tmp_path / "stop")
    assert status == 0, output
    assert "was stopped" in output
    submitted.wait(timeout=60)
    assert "SIGTERM: every trial finishes its iteration" in log.read_text()
    done = len(rows(tmp_path / "results"))
    assert done < 3
    assert len(list(tmp_path.glob("results/*/*/checkpoint_*"))) == 1

    submit[submit.index("--submission-id") + 1] += "-2"
    status, output = cluster.run(*submit, log=tmp_path / "log-2")
    assert status == 0, output
    assert "going on with MAT" in output
    results = rows(tmp_path / "results")
    assert [row["training_iteration"] for row in results] == [1, 2, 3]
    assert env_steps(results) == [n * 2 * 64 * 1000 for n in (1, 2, 3)]


FAULTY = """
import numpy as np

from rllib_seqmarl.envs.toy.distinct_actions import make


def faulty(num_envs):
    env = make(num_envs, num_agents=3)
    step = env.step

    def step_with_nan(actions):
        obs, *rest = step(actions)
        obs["obs"][0] = np.nan
        return obs, *rest

    env.step = step_with_nan
    return env
"""


def test_a_job_fails_where_its_trial_does(cluster: Nodes, tmp_path: Path) -> None:
    """Its environment is a file of the user's, which no node but the submitter's has."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "faulty.py").write_text(FAULTY)
    spec = {"run": "MAT", "env": "faulty:faulty", "stop": {"training_iteration": 5}, "config": TINY}
    (folder / "faulty.yaml").write_text(yaml.safe_dump({"faulty": spec}))
    submit = [*written(SUBMIT)[:5], "--working-dir", str(folder), "--"]
    submit += ["rllib", "train", "file", "faulty.yaml", "--storage-path", str(tmp_path)]
    status, output = cluster.run(*here(submit, cluster, tmp_path), log=tmp_path / "log")
    assert status == 1, output
    assert "gave nan in 'obs' at step 1, env 0" in output
    assert "1 of 1 trials failed" in output


def test_a_folder_that_the_workers_lack_is_refused(cluster: Nodes, tmp_path: Path) -> None:
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    check_shared(tmp_path)
    # All nodes here have the same disk: a folder that only this process has open.
    folder = os.open(tmp_path, os.O_RDONLY)
    own = Path(f"/proc/self/fd/{fcntl.fcntl(folder, fcntl.F_DUPFD, 900)}")
    assert own.is_dir()
    with pytest.raises(UserError, match=f"{own} is not there on .*, .*: give --storage-path"):
        check_shared(own)
    ray.shutdown()


# --- lost nodes ----------------------------------------------------------------------------------


def test_runners_of_a_lost_node_come_back_with_another(cluster: Nodes) -> None:
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    config = registry.config_class("MAT")().environment("distinct_actions")
    config.update_from_dict({**TINY, "num_env_runners": 4})
    algorithm = config.build_algo()
    steps = [0]

    def train_until(sampled: int) -> None:
        def trained() -> bool:
            steps.extend(env_steps([algorithm.train()]))
            return steps[-1] - steps[-2] == sampled

        wait_until(trained, f"an iteration has {sampled} steps")

    train_until(4 * SHARE)
    first = cluster.actors("TeamEnvRunner")
    assert {runner.node_id for runner in first} == cluster.workers
    cluster.remove(first[0].node_id)
    train_until(2 * SHARE)
    cluster.add()
    train_until(4 * SHARE)
    runners = cluster.actors("TeamEnvRunner")
    assert {runner.actor_id for runner in runners} == {runner.actor_id for runner in first}
    assert {runner.node_id for runner in runners} == cluster.workers
    assert all(later > earlier for earlier, later in itertools.pairwise(steps))
    algorithm.stop()
    ray.shutdown()


def test_a_trial_outlives_its_runners_node_and_restarts_after_its_own(
    cluster: Nodes, tmp_path: Path
) -> None:
    """Ray Tune does not end a trial whose placement group has lost a node of runners.

    The group waits for resources, its runners with it, and the trial's process trains with the
    rest. A trial whose own process is lost waits for resources for the whole group.
    """
    spec = {"run": "MAT", "env": "distinct_actions", "stop": {"training_iteration": 10**6}}
    spec |= {"checkpoint_config": {"checkpoint_frequency": 1, "num_to_keep": 2}, "config": TINY}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"tiny": spec}))
    words = ["rllib", "train", "file", "tiny.yaml", "--ray-address", cluster.address]
    words += ["--storage-path", str(tmp_path), "--max-failures", "1"]
    command = cluster.start(*words, log=tmp_path / "log")

    def iterations_until(sampled: int, since: int) -> list[dict[str, Any]]:
        """The results, once one after so many has this number of steps more than the last."""

        def sampled_by_last() -> list[dict[str, Any]]:
            assert command.poll() is None, (tmp_path / "log").read_text()
            results = rows(tmp_path)
            steps = env_steps(results)
            done = len(steps) > since + 1 and steps[-1] - steps[-2] == sampled
            return results if done else []

        return wait_until(sampled_by_last, f"an iteration has {sampled} steps")

    since = len(iterations_until(3 * SHARE, 0))
    (trial,) = cluster.actors("MAT")
    (other,) = cluster.workers - {trial.node_id}
    cluster.remove(other)
    since = len(iterations_until(SHARE, since))
    cluster.add()
    before = iterations_until(3 * SHARE, since)
    assert all(later > earlier for earlier, later in itertools.pairwise(env_steps(before)))
    assert {row["pid"] for row in before} == {trial.pid}

    cluster.remove(trial.node_id)
    failed = "starts again from its last checkpoint"
    wait_until(lambda: failed in (tmp_path / "log").read_text(), "the trial's failure is noticed")
    cluster.add()

    def of_the_second_process() -> list[dict[str, Any]]:
        return [row for row in rows(tmp_path) if row["pid"] != trial.pid]

    after = wait_until(of_the_second_process, "the trial is back")[0]
    known = {row["training_iteration"]: row for row in rows(tmp_path) if row["pid"] == trial.pid}
    last = known[after["training_iteration"] - 1]
    assert last["training_iteration"] >= max(known) - 1
    assert env_steps([after])[0] == env_steps([last])[0] + 3 * SHARE

    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=300) == 130
