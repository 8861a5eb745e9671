"""What happens when parts fail while the rest goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray import tune

from rllib_seqmarl.envs.toy.distinct_actions import make
from rllib_seqmarl.errors import UserError


def not_a_number_later(num_envs: int, after: int) -> Any:
    """Environments that give a NaN observation once ``after`` steps have been made."""
    env = make(num_envs, num_agents=3)
    step, made = env.step, 0

    def faulty(actions: Any) -> Any:
        nonlocal made
        obs, *rest = step(actions)
        made += 1
        if made > after:
            obs["obs"][1, 2, 0] = np.nan
        return obs, *rest

    env.step = faulty
    return env


def faulty_once(num_envs: int, after: int, faults: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Environments with faults, each in one process after so many steps, and never again.

    Args:
        num_envs: E.
        after: steps.
        faults: "hang" (on a simulator in a process of its own) or "raise" -> a file that is made
            when it happens.
    """
    env = make(num_envs, num_agents=3)
    step, made = env.step, 0

    def faulty(actions: Any) -> Any:
        nonlocal made
        made += 1
        for fault, file in faults.items() if made > after else ():
            with contextlib.suppress(FileExistsError), open(file, "x") as stream:
                if fault == "raise":
                    raise ValueError("the simulator is gone")
                simulator = subprocess.Popen(["sleep", "100000"])
                print(simulator.pid, file=stream, flush=True)
                simulator.wait()
        return step(actions)

    env.step = faulty
    return env


@pytest.fixture
def own_environments() -> None:
    """The environments of this file, in processes that cannot import it, too."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    for function in not_a_number_later, faulty_once:
        tune.register_env(function.__name__, lambda context, f=function: f(**context))


@pytest.mark.parametrize("async_sampling", [False, True])
def test_runners_that_hang_or_raise_are_named_and_replaced(
    async_sampling: bool, small: Any, own_environments: None, tmp_path: Any
) -> None:
    """One hangs, another one raises, and both play again soon."""
    faults = {fault: str(tmp_path / fault) for fault in ("hang", "raise")}
    algorithm = small(
        "MAT",
        env="faulty_once",
        env_config={"faults": faults, "after": 15},  # in the second rollout
        num_env_runners=2,
        async_sampling=async_sampling,
        sample_timeout_s=10.0,
        delay_between_env_runner_restarts_s=0,
        sync_filters_on_rollout_workers_timeout_s=0.5,
    ).build_algo()
    warnings, steps = [], [0]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        result = algorithm.train()
        steps.append(result["env_runners"]["num_env_steps_sampled_lifetime"])
        warnings.append(result["notice"])
        if len(steps) > 3 and steps[-1] - steps[-2] == 160:
            break
    assert steps[-1] - steps[-2] == 160, (steps, warnings)
    told = " ".join(warnings)
    assert re.findall(r"runner \d is restarted: it did not answer within 10 s", told)
    failed = (
        r"the environment \(distinct_actions\) failed in a step: ValueError: the simulator is gone"
    )
    assert re.findall(rf"runner \d is restarted: {failed}", told)
    assert told.count("restarted") == 2
    with open(faults["hang"]) as stream:
        simulator = int(stream.read())
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(simulator).status() == psutil.STATUS_ZOMBIE
    assert warnings[-1] == ""
    assert set(steps[1:]) <= set(range(80, int(steps[-1]) + 1, 80))
    # Only while a runner hangs is it waited for, and then once.
    begin = time.monotonic()
    algorithm.train()
    assert time.monotonic() - begin < 10
    algorithm.stop()


def test_an_environment_that_always_raises_ends_the_training(
    small: Any, own_environments: None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rllib_seqmarl.learning.base.algorithm.MAX_ITERATIONS_WITHOUT_ROLLOUT", 0)
    context = {"faults": {"raise": str(tmp_path / "raise")}, "after": 0}
    parts = {"num_env_runners": 1, "delay_between_env_runner_restarts_s": 0}
    algorithm = small("MAT", env="faulty_once", env_config=context, **parts).build_algo()
    with pytest.raises(RuntimeError, match=r"1 iterations on end: runner 1 .*simulator is gone"):
        algorithm.train()
    algorithm.stop()


def test_an_evaluation_is_played_by_the_runners_that_answer(
    small: Any, own_environments: None, tmp_path: Any
) -> None:
    """All of it, whichever runner hangs, and the next evaluation does not wait for that one."""
    faults = {"hang": str(tmp_path / "hang")}
    algorithm = small(
        "MAT",
        env="faulty_once",
        env_config={"after": 10**6},
        evaluation_interval=1,
        evaluation_num_env_runners=2,
        evaluation_duration=19,
        evaluation_sample_timeout_s=10.0,
        evaluation_config={"env_config": {"faults": faults, "after": 0}},
    ).build_algo()
    result = algorithm.train()
    assert "is restarted: it did not answer within 10 s" in result["notice"]
    assert result["evaluation"]["env_runners"]["num_episodes"] == 19
    begin = time.monotonic()
    result = algorithm.train()
    assert time.monotonic() - begin < 10
    assert result["notice"] == ""
    assert result["evaluation"]["env_runners"]["num_episodes"] == 19
    algorithm.stop()


@pytest.mark.parametrize("async_sampling", [False, True])
def test_a_killed_runner_is_replaced_and_nothing_is_lost(async_sampling: bool, small: Any) -> None:
    settings = {"num_env_runners": 2, "delay_between_env_runner_restarts_s": 0}
    algorithm = small("MAT", async_sampling=async_sampling, **settings).build_algo()
    first = algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"]
    pids = algorithm.env_runner_group.foreach_env_runner(
        lambda _: os.getpid(), local_env_runner=False
    )
    os.kill(pids[0], signal.SIGKILL)
    steps, healthy, notices = [first], [], ""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        result = algorithm.train()
        steps.append(result["env_runners"]["num_env_steps_sampled_lifetime"])
        healthy.append(algorithm.env_runner_group.num_healthy_remote_env_runners())
        notices += result["notice"]
        if len(steps) > 3 and healthy[-1] == 2 and steps[-1] - steps[-2] == 160:
            break
    assert steps[-1] - steps[-2] == 160, (steps, healthy)
    assert "is restarted: its process is gone (killed, out of memory" in notices
    assert "did not answer" not in notices  # it is gone, and does not hang
    assert all(later > earlier for earlier, later in itertools.pairwise(steps))
    newest = result["learners"]["default_policy"]["weights_seq_no"]
    assert newest == len(steps)
    numbers = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner.get_state(components="rl_module")["weights_seq_no"],
        local_env_runner=False,
    )
    assert numbers == [newest, newest]
    algorithm.stop()


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_a_bad_environment_in_another_process_stops_the_training(
    where: str, small: Any, own_environments: None
) -> None:
    """RLlib would restart its runner for ever."""
    if where == "training":
        after, parts = 15, {"num_env_runners": 1}
    else:
        after = 10**6
        parts = {
            "evaluation_interval": 1,
            "evaluation_num_env_runners": 1,
            "evaluation_duration": 200,
            "evaluation_config": {"env_config": {"after": 15}},
        }
    config = small("MAT", env="not_a_number_later", env_config={"after": after}, **parts)
    algorithm = config.build_algo()
    if where == "training":
        algorithm.train()  # ten good steps
    with pytest.raises(UserError, match="gave nan in 'obs'"):
        algorithm.train()
    algorithm.stop()


def test_a_failed_trial_keeps_its_last_good_checkpoint(
    tmp_path: Any, no_ray: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command stops, names the tensor, exits with 1, and the checkpoint plays."""
    from rllib_seqmarl.cli import main

    experiment = tmp_path / "nan.yaml"
    # 25 steps: two iterations of ten are good, the third is not.
    experiment.write_text(
        """
nan-later:
  run: MAT
  env: "test_faults:not_a_number_later"
  stop: {training_iteration: 5}
  checkpoint_config: {checkpoint_frequency: 1}
  config:
    env_config: {after: 25}
    num_envs_per_env_runner: 4
    rollout_fragment_length: 10
    num_epochs: 1
    embed_dim: 16
"""
    )
    folder = os.path.dirname(__file__)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, before)))
    try:
        status = main(["train", "file", str(experiment), "--storage-path", str(tmp_path)])
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    printed = capfd.readouterr()
    assert status == 1, printed.out + printed.err
    assert "gave nan in 'obs' at step 6, env 1, agent 2" in printed.out + printed.err
    checkpoints = sorted(tmp_path.glob("nan-later/*/checkpoint_*"))
    assert len(checkpoints) == 2
    arguments = ["--episodes", "4", "--env-config", '{"after": 1000}']
    assert main(["evaluate", str(checkpoints[-1]), *arguments]) == 0
