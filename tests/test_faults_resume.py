"""What a training that was cut off goes on with: all of it, and where it is told to."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest
import tree
from helpers.running import Running, iterations, results, rllib

GAME = {"episode_length": 3}
LR = [[0, 1e-3], [2000, 0.0]]
#: Beside Adam's moments and the weights: ValueNorm, schedules of the loss, target critics, what is
#: carried from episode to episode, a replay store.
KEPT: dict[str, dict[str, Any]] = {
    "MAT": {"lr": LR, "entropy_coeff": [[0, 0.1], [2000, 0.0]], "clip_param": [[0, 0.2], [999, 0]]},
    "SrSv": {"lr": LR, "value_loss_agents": 2, "micro_batch_size": 30},
    "MAPPO": {"lr": LR, "critic_lr": LR, "minibatch_size": 30},
    "COMA": {"lr": LR, "critic_lr": LR, "target_update_env_steps": 120, "critic_steps": 2},
    "SeCA": {"lr": LR, "critic_lr": LR, "order_source": "previous_episode"},
    "RIIT": {"lr": LR, "critic_lr": LR, "replay_capacity": 20, "replay_batch_size": 4},
}
STEPS = "num_env_steps_sampled_lifetime"


def lr_at(steps: float) -> float:
    return 1e-3 * max(0.0, 1.0 - steps / 2000)


def learned(algorithm: Any) -> dict[str, Any]:
    """All that a learner holds, by its path, but for the times that it took."""
    state = algorithm.learner_group.get_state()["learner"]
    state = {key: value for key, value in state.items() if key != "metrics_logger"}
    flat = tree.flatten_with_path(tree.map_structure(lambda x: x, state))
    return {"/".join(map(str, path)): value for path, value in flat}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    different = [
        key for key in one if not np.array_equal(np.asarray(one[key]), np.asarray(other[key]))
    ]
    assert different == []


def rates(result: dict[str, Any]) -> list[float]:
    terms = result["learners"]["default_policy"]
    return [value for name, value in terms.items() if name.endswith("learning_rate")]


@pytest.mark.parametrize("name", KEPT)
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    name: str, small: Any, tmp_path: Path
) -> None:
    algorithm = small(name, env_config=GAME, **KEPT[name]).build_algo()
    for _ in range(3):
        algorithm.train()
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    at_checkpoint = learned(algorithm)
    assert len(at_checkpoint) > 20
    resumed = small(name, env_config=GAME, **KEPT[name]).build_algo()
    resumed.restore_from_path(path)
    assert_same(at_checkpoint, learned(resumed))
    for _ in range(2):
        results = [one.train() for one in (algorithm, resumed)]
    assert_same(learned(algorithm), learned(resumed))
    for result in results:
        assert result["training_iteration"] == 5
        assert result[STEPS] == 400
        assert rates(result) == pytest.approx([lr_at(400)] * len(rates(result)))
    for one in (algorithm, resumed):
        one.stop()


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        ("MAT", {"num_env_runners": 1, "num_learners": 1}),
        ("COMA", {"num_env_runners": 2}),
    ],
)
def test_nothing_is_lost_on_other_numbers_of_runners_and_learners(
    name: str, processes: dict[str, int], small: Any, tmp_path: Path
) -> None:
    """And back again."""
    algorithm = small(name, env_config=GAME, **KEPT[name]).build_algo()
    for _ in range(3):
        algorithm.train()
    steps = 240
    for number, change in enumerate((processes, {})):
        path = algorithm.save_to_path(str(tmp_path / str(number)))
        before = learned(algorithm)
        algorithm.stop()
        algorithm = small(name, env_config=GAME, **KEPT[name], **change).build_algo()
        algorithm.restore_from_path(path)
        assert_same(before, learned(algorithm))
        result = algorithm.train()
        steps += 80 * max(1, change.get("num_env_runners", 0))
        assert result["training_iteration"] == 4 + number
        assert result[STEPS] == steps
        assert rates(result) == pytest.approx([lr_at(steps)] * len(rates(result)))
        assert result["learners"]["default_policy"]["weights_seq_no"] == 4 + number
    algorithm.stop()


EXPERIMENT = """\
cut-off:
  run: COMA
  env: distinct_actions
  stop: {training_iteration: 30}
  checkpoint_config: {checkpoint_frequency: 1, num_to_keep: 3}
  config:
    num_env_runners: 2
    num_envs_per_env_runner: 16
    rollout_fragment_length: 50
    state: observations
    lr: [[0, 1.e-3], [100000, 0.0]]
    seed: 3
"""


def test_a_killed_training_goes_on_elsewhere_from_its_last_sound_checkpoint(tmp_path):
    """kill -9 with two runners; the newest checkpoint was cut off; there is one core left."""
    file = tmp_path / "f.yaml"
    file.write_text(EXPERIMENT)
    arguments = ("train", "file", str(file), "--storage-path", str(tmp_path))
    folder = tmp_path / "cut-off"
    running = Running(tmp_path / "1.log", *arguments, "--ray-num-cpus", "3")
    running.wait_for(lambda: any(folder.glob("*/result.json")) and len(iterations(folder)) > 4, 240)
    running.process.send_signal(signal.SIGKILL)
    running.process.wait()
    before = iterations(folder)
    assert before == list(range(1, len(before) + 1))
    assert len(before) < 30
    *_, sound, newest = sorted(folder.glob("*/checkpoint_*"))
    (state,) = newest.glob("learner_group/learner/state.*")
    os.truncate(state, state.stat().st_size // 2)

    run = rllib(*arguments, "--ray-num-cpus", "1", "--num-env-runners", "0", "--resume")

    assert run.returncode == 0, run.stdout
    assert "num_env_runners is 0 (was 2)" in run.stdout
    assert f"checkpoint {newest} is damaged: learner_group/learner/state" in run.stdout
    assert f" goes on from {sound}." in run.stdout
    assert "Traceback" not in run.stdout
    done = results(folder)
    resumed = int(sound.name[-6:]) + 2  # checkpoint_000000 is that of the first iteration
    after = done[len(before) :]
    assert [result["training_iteration"] for result in after] == list(range(resumed, 31))
    for result in done:
        # 800 steps by each of two runners, then by the trial's own process alone.
        iteration = result["training_iteration"]
        with_two = min(iteration, resumed - 1) if result in after else iteration
        assert result[STEPS] == 800 * (iteration + with_two)
        rate = result["learners"]["default_policy"]["agent_learning_rate"]
        assert rate == pytest.approx(1e-3 * (1 - result[STEPS] / 100_000), rel=1e-4)
    # What was cut off was not written into.
    last = max(path.name for path in folder.glob("*/checkpoint_*"))
    assert int(last[-6:]) == int(newest.name[-6:]) + len(after)


LIMITED = """\
import resource
from pathlib import Path

from rllib_seqmarl import MATConfig

def fill(algorithm, result, **rest):
    "From the third iteration on no file can grow beyond 4 kB, as if the disk were full."
    if algorithm.iteration >= 3 and Path({flag!r}).exists():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

config = (
    MATConfig()
    .environment("distinct_actions")
    .env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=8)
    .callbacks(on_train_result=fill)
    .training(num_epochs=1)
)
stop = {{"training_iteration": 5}}
checkpoint_config = {{"checkpoint_frequency": 1}}
"""


def test_a_full_disk_ends_the_trial_and_the_last_good_checkpoint_goes_on(tmp_path):
    flag = tmp_path / "full"
    flag.touch()
    file = tmp_path / "limited.py"
    file.write_text(LIMITED.format(flag=str(flag)))
    arguments = ("train", "file", str(file), "--storage-path", str(tmp_path))
    arguments = (*arguments, "--ray-num-cpus", "1", "-n", "full-disk")

    run = rllib(*arguments)

    assert run.returncode == 1, run.stdout
    (line,) = [line for line in run.stdout.splitlines() if " failed: " in line]
    assert f"the checkpoint after iteration 3 could not be written to {gettempdir()}: " in line
    assert "File too large" in line
    assert "Traceback" not in run.stdout
    folder = tmp_path / "full-disk"
    names = sorted(path.name for path in folder.glob("*/checkpoint_*"))
    assert names == ["checkpoint_000000", "checkpoint_000001"]

    flag.unlink()
    run = rllib(*arguments, "--resume")

    assert run.returncode == 0, run.stdout
    assert iterations(folder) == [1, 2, 3, 3, 4, 5]
    assert [result[STEPS] for result in results(folder)] == [32, 64, 96, 96, 128, 160]
