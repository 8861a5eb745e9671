"""The ``rllib`` command as users run it: a process of its own, from its start to its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers.running import EXAMPLE, SMALL, Running, environment, iterations, results, rllib
from PIL import Image

from rllib_seqmarl.experiments.checkpoints.lock import hold
from rllib_seqmarl.experiments.compare.runs import read

STEPS = "num_env_steps_sampled_lifetime"


def check_listeners(processes):
    """Nobody but this machine can reach a process of a local Ray."""
    sockets = [
        connection.laddr
        for pid in processes
        if alive(pid)
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(sockets) > 3  # driver, global control store, raylet, trial
    assert {address.ip.removeprefix("::ffff:") for address in sockets} <= {"127.0.0.1", "::1"}


def wait_until_gone(processes, seconds):
    deadline = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, processes))


@pytest.fixture(scope="module")
def to_be_gone():
    """Processes that must have ended by themselves when the tests of this file are through."""
    processes: set[int] = set()
    yield processes
    wait_until_gone(processes, seconds=90)


def alive(pid):
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_more_than_this_machine_has_is_said(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(SMALL)

    run = rllib(
        *("train", "file", str(file), "--storage-path", str(tmp_path / "results")),
        *("--ray-num-cpus", "1", "--num-env-runners", "3"),
    )

    assert run.returncode == 2
    assert "a trial needs 4 CPU, and there are 1" in run.stdout
    assert len(run.stdout.splitlines()) == 1
    assert not (tmp_path / "results").exists()


# --- training ----------------------------------------------------------------------------------


def test_train_then_evaluate_as_it_says(tmp_path):
    arguments = ("train", "file", EXAMPLE, "--storage-path", str(tmp_path), "--ray-num-cpus", "1")

    run = rllib(
        *(*arguments, "--stop", '{"training_iteration": 3}', "--seed", "5"),
        *("--checkpoint-freq", "1", "--keep-checkpoints-num", "1"),
        *("--checkpoint-score-attr", "min-env_runners/num_env_steps_sampled_lifetime"),
    )

    assert run.returncode == 0, run.stdout
    lines = run.stdout.splitlines()
    folder = tmp_path / "mat-distinct-actions"
    assert lines[0] == f"mat-distinct-actions: training MAT on distinct_actions. Results: {folder}"
    assert any(": iteration 3 | env steps 2,400 | steps/s " in line for line in lines)
    assert lines[lines.index("Your training finished.") + 1 :][:2] == [
        "Best available checkpoint for each trial:",
        f"  {next(folder.glob('*/checkpoint_000000'))}",
    ]
    # The best, which was the first, and the latest.
    assert {path.name for path in folder.glob("*/checkpoint_*")} == {
        "checkpoint_000000",
        "checkpoint_000002",
    }
    assert "Traceback" not in run.stdout
    assert len(lines) < 15
    assert json.loads((folder / "experiment.json").read_text())["config"]["seed"] == 5

    evaluate = lines[-1].split()
    assert evaluate[:2] == ["rllib", "evaluate"]
    out = tmp_path / "episodes.json"
    run = rllib(*evaluate[1:], "--episodes", "20", "--out", str(out))
    assert run.returncode == 0, run.stdout
    assert "MAT on distinct_actions" in run.stdout
    assert "episode_return" in run.stdout
    assert len(json.loads(out.read_text())["per_episode"]["episode_return"]) == 20

    run = rllib(*arguments, "--experiment-name", folder.name)
    assert run.returncode == 2
    assert "--resume" in run.stdout
    assert iterations(folder) == [1, 2, 3]

    # A checkpoint of another algorithm, and a damaged one.
    checkpoint = Path(evaluate[2])
    file = tmp_path / "f.yaml"
    file.write_text(SMALL.replace("MAT", "SrSv"))
    restore = ("train", "file", str(file), "--storage-path", str(tmp_path / "other"), "--restore")
    run = rllib(*restore, str(checkpoint))
    assert run.returncode == 2
    assert "is a checkpoint of MAT, and this experiment runs SrSv" in run.stdout
    (state,) = checkpoint.glob("learner_group/state.*")
    os.truncate(state, state.stat().st_size // 2)
    # Of one's own checkpoint nobody is warned, of a copy from somewhere else one is.
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    for broken in (rllib(*restore, str(checkpoint)), rllib("evaluate", str(copy))):
        assert broken.returncode == 2
        *notes, line = broken.stdout.splitlines()
        assert "is damaged" in line
        assert [note[:27] for note in notes] == ["note: a checkpoint can run "] * (
            str(copy) in broken.stdout
        )
    assert not (tmp_path / "other").exists()


def test_a_finished_training_is_made_longer_and_a_second_one_has_a_name_of_its_own(tmp_path):
    file, storage = tmp_path / "f.yaml", tmp_path / "results"
    file.write_text(SMALL)
    arguments = ("train", "file", str(file), "--storage-path", str(storage), "--ray-num-cpus", "1")

    assert rllib(*arguments, "--stop", '{"training_iteration": 1}').returncode == 0
    longer = rllib(*arguments, "--resume")  # the file says 3

    assert longer.returncode == 0, longer.stdout
    assert "small: trials stop at training_iteration 3 (before: training_iteration 1)." in (
        longer.stdout
    )
    assert iterations(storage / "small") == [1, 2, 3]
    second = rllib(*arguments, "--stop", '{"training_iteration": 1}')
    assert "this one is called small-2." in second.stdout
    assert len(list((storage / "small-2").glob("MAT_*"))) == 1


def test_evaluate_beside_scripted_policies_and_as_a_video(tmp_path):
    cars = {"num_agents": 2, "episode_length": 20, "max_travel": 1.0, "num_rays": 4}
    config = {
        **{"num_env_runners": 0, "num_envs_per_env_runner": 4, "rollout_fragment_length": 20},
        **{"num_epochs": 1, "embed_dim": 16, "env_config": cars},
    }
    run = rllib(
        *("train", "--algo", "MAT", "--env", "dubins_car", "--config", json.dumps(config)),
        *("--stop", '{"training_iteration": 1}', "--storage-path", str(tmp_path)),
        *("-n", "cars", "--ray-num-cpus", "1"),
    )
    assert run.returncode == 0, run.stdout
    video, out = tmp_path / "video.gif", tmp_path / "episodes.json"
    explained = tmp_path / "explained.png"

    run = rllib(
        *("evaluate", str(tmp_path / "cars"), "--episodes", "6", "--out", str(out)),
        *("--scripted-policies", "nominal,full_speed"),
        *("--render", str(video), "--render-every", "5", "--explain", str(explained)),
        *("--env-config", '{"num_agents": 12}'),
    )

    assert run.returncode == 0, run.stdout
    (head,) = re.findall(r"metric .+mean.+least.+most.+", run.stdout)
    assert "nominal" in head
    assert "potential" not in run.stdout
    result = json.loads(out.read_text())
    assert list(result["controllers"]) == ["nominal", "full_speed"]
    for played in result["controllers"].values():
        assert len(played["per_episode"]["reach_ratio"]) == 6
        assert f"{played['metrics']['episode_return']:.4g}" in run.stdout
    with Image.open(video) as gif:
        assert gif.n_frames == 5  # of 20 steps every fifth, and the end
    with Image.open(explained) as picture:
        assert picture.format == "PNG"

    run = rllib("evaluate", str(tmp_path / "cars"), "--controllers", "nominl")
    assert run.returncode == 2
    assert "no scripted policy 'nominl'. Did you mean 'nominal'?" in run.stdout


def test_stopped_and_killed_training_goes_on_with_the_same_counts(tmp_path, to_be_gone):
    folder = tmp_path / "mat-distinct-actions"
    stop = ("--stop", '{"training_iteration": 40}')
    arguments = (
        *("train", "file", EXAMPLE, *stop, "--storage-path", str(tmp_path)),
        *("--ray-num-cpus", "1", "--checkpoint-freq", "2", "--keep-checkpoints-num", "2"),
    )

    def reached(iteration):
        return lambda: any(folder.glob("*/result.json")) and iterations(folder)[-1:] >= [iteration]

    # SIGTERM: the iteration is finished, and what it did is kept.
    running = Running(tmp_path / "1.log", *arguments)
    running.wait_for(reached(3))
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 143
    text = running.log.read_text()
    assert "Your training was stopped by SIGTERM." in text
    assert "Best available checkpoint for each trial:" in text
    assert text.rstrip().endswith("--resume")
    before = iterations(folder)
    assert before == list(range(1, len(before) + 1))
    assert len(before) < 30

    # kill -9: nothing of it stays behind, at most the iterations since a checkpoint are lost.
    running = Running(tmp_path / "2.log", *arguments, "--resume")
    running.wait_for(reached(len(before) + 5))
    family = running.family()
    check_listeners([running.process.pid, *family])
    # Two helpers of Ray need a minute to end; everything that computes is gone at once.
    helpers = {pid for pid, name in family.items() if name.startswith("ray::") and "Agent" in name}
    assert any("gcs_server" in name for name in family.values())
    assert any("raylet" in name for name in family.values())
    assert any(name.startswith("ray::MAT") for name in family.values())
    running.process.kill()
    running.process.wait()
    killed = iterations(folder)
    assert killed[: len(before) + 1] == [*before, len(before) + 1]  # nothing was done twice
    wait_until_gone(family.keys() - helpers, seconds=20)
    to_be_gone.update(helpers)

    # Nobody writes where another does, and changed settings are not silently ignored.
    with hold(folder) as lines:
        assert f"was cut off (process {running.process.pid} on" in lines[0]
        run = rllib(*arguments, "--resume")
    assert run.returncode == 2
    assert "is being written by another training" in run.stdout
    run = rllib(*arguments, "--resume", "--seed", "99")
    assert run.returncode == 2
    assert "'config/seed' was 1" in run.stdout

    run = rllib(*arguments, "--resume")
    assert run.returncode == 0, run.stdout
    done = results(folder)
    resumed = done[len(killed)]["training_iteration"]
    assert killed[-1] - 4 <= resumed  # results reach the folder a second after checkpoints
    assert iterations(folder) == [*killed, *range(resumed, 41)]
    per_iteration = done[0][STEPS]
    assert all(result[STEPS] == per_iteration * result["training_iteration"] for result in done)
    assert len(list(folder.glob("*/checkpoint_*"))) <= 3

    # Its curve has every iteration once, and the CPU seconds went on.
    (file,) = folder.glob("*/result.json")
    curve = read(file.parent, pytest.fail)
    assert curve.column("training_iteration").tolist() == list(range(1, 41))
    assert (np.diff(curve.column("cpu_time_total_s")) > 0).all()
    run = rllib("plot", str(next(folder.glob("*/checkpoint_*"))), "--out", str(tmp_path / "a.png"))
    assert run.returncode == 0, run.stdout
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 1000

    # What is finished is not run again.
    run = rllib(*arguments, "--resume")
    assert run.returncode == 0, run.stdout
    assert "Your training finished." in run.stdout
    assert len(results(folder)) == len(done)


FAILING = """\
from rllib_seqmarl import MATConfig
from rllib_seqmarl.errors import UserError

def fail(algorithm, result, **rest):
    if algorithm.iteration == 3:
        raise UserError("the loss is not finite")

config = (
    MATConfig()
    .environment("distinct_actions")
    .env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=8)
    .callbacks(on_train_result=fail)
    .training(num_epochs=1)
)
stop = {"training_iteration": 9}
"""


def test_a_failing_trial_keeps_its_last_good_checkpoint(tmp_path):
    file = tmp_path / "failing.py"
    file.write_text(FAILING)

    run = rllib(
        *("train", "file", str(file), "--storage-path", str(tmp_path / "results")),
        *("--ray-num-cpus", "1", "--checkpoint-freq", "1"),
    )

    assert run.returncode == 1
    assert re.search(r"^MAT_\w+ failed: the loss is not finite$", run.stdout, re.M), run.stdout
    assert "finished, but 1 of 1 trials failed." in run.stdout
    assert "Traceback" not in run.stdout
    (log,) = re.findall(r"full log: (.+)", run.stdout)
    assert "the loss is not finite" in Path(log).read_text()
    (checkpoint,) = re.findall(r"rllib evaluate (.+)", run.stdout)
    assert Path(checkpoint, "rllib_checkpoint.json").exists()
    assert checkpoint.endswith("checkpoint_000001")


def test_a_running_cluster_is_used_and_left_alone_and_a_wrong_stop_key_ends_the_trial(tmp_path):
    file = tmp_path / "f.yaml"
    second = SMALL.replace("small:", "second:").replace(
        "training_iteration", "learners/default_policy/no_loss"
    )
    file.write_text(SMALL + second)
    # A cluster in a process of its own, so that this one can go on without Ray.
    head = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import ray, sys\n"
            "context = ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
            "import os\n"
            "print(context.address_info['gcs_address'], os.environ.get('RAY_AUTH_MODE', ''))\n"
            "sys.stdout.flush()\n"
            "sys.stdin.read()\n"
            "print(len(ray.nodes()), ray.cluster_resources()['CPU'])",
        ],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        address, _, mode = head.stdout.readline().rstrip("\n").partition(" ")
        variables = {"RAY_ADDRESS": address, **({"RAY_AUTH_MODE": mode} if mode else {})}

        run = rllib("train", "file", str(file), "--storage-path", str(tmp_path), **variables)

        assert run.returncode == 1, run.stdout
        assert "MAT on distinct_actions" in run.stdout
        assert (
            "the stop key 'learners/default_policy/no_loss' is not among the results" in run.stdout
        )
        assert "1 of 2 trials failed" in run.stdout
        assert iterations(tmp_path / "small") == [1, 2, 3]
        assert iterations(tmp_path / "second") == [1]
        assert len(re.findall("rllib evaluate ", run.stdout)) == 2
        # Still the one node, and it answers.
        out, _ = head.communicate("", timeout=30)
        assert out.split() == ["1", "1.0"]
    finally:
        head.kill()
