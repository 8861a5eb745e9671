"""Every script of benchmarks/ runs, in its smallest form; what it measures is not looked at."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"

#: Script -> arguments with which it takes seconds.
ARGUMENTS = {
    "decoders.py": "--agents 3 --batches 1 --budget 0.01",
    "dubins_car_throughput.py": "--seconds 0.01",
    "gpu.py": "--device cpu --short --no-install",
    "jaxmarl_mappo.py": "--map 3m --envs 2 --steps 4 --epochs 1 --minibatches 1 --rounds 1",
    "learning_curve.py": (
        "tuned_examples/srsv_distinct_actions.yaml --env-steps 20 --out /dev/null "
        '--settings {"num_envs_per_env_runner":2,"num_epochs":1,"evaluation_interval":1}'
    ),
    "mamujoco_throughput.py": "--seconds 0.01 --tasks HalfCheetah:2x3 --envs 2",
    "many_agents.py": "--agents 8 --cases MAT",
    "mappo_against_ppo.py": "--steps 2000 --seeds 1",
    "mappo_throughput.py": "--tables act --rounds 1",
    "mpe_throughput.py": "--seconds 0.01 --envs 2",
    "order_cost.py": "--agents 3 --envs 2 --budget 0.01",
    "overhead.py": "--map 3m --iterations 1 --envs 2 --steps 8 --epochs 1",
    "peers.py": "--help",  # the official code is fetched by the user
    "scaling.py": (
        "--env distinct_actions --parts throughput --runners 0 1 --learners 0 --rounds 1 "
        '--settings {"num_envs_per_env_runner":2,"rollout_fragment_length":4,"num_epochs":1}'
    ),
    "seeded_figures.py": "--runs COMA",
    "seca_gradient.py": (
        "tuned_examples/seca_distinct_actions.yaml --env-steps 20 --rollouts 2 "
        '--settings {"num_envs_per_env_runner":2}'
    ),
    "smax_throughput.py": "--seconds 0.01 --maps 3m --envs 2",
    "srsv_cost.py": "--agents 3 --rows 8 --rounds 1",
    "startup.py": (
        "--example mat_distinct_actions --parts import help evaluate --rounds 1 --episodes 2"
    ),
    "structure.py": "--algorithms",
    "update_time.py": "--env distinct_actions --env-config {} --envs 2 --steps 4 --rounds 1",
}
#: Imported by these, and no scripts themselves.
IMPORTED = {
    "bare_loop.py": "overhead.py",
    "scaling_model.py": "scaling.py",
    "scaling_players.py": "scaling.py",
}
#: Scripts that need a simulator.
SIMULATORS = {
    "jaxmarl_mappo.py": "jaxmarl",
    "mamujoco_throughput.py": "mujoco",
    "mpe_throughput.py": "mpe2",
    "overhead.py": "jaxmarl",
    "smax_throughput.py": "jaxmarl",
}


def test_all_scripts_are_run() -> None:
    assert {file.name for file in BENCHMARKS.glob("*.py")} == {*ARGUMENTS, *IMPORTED}
    for module, script in IMPORTED.items():
        text = (BENCHMARKS / script).read_text()
        assert script in ARGUMENTS
        assert f"from {module.removesuffix('.py')} import" in text


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """New processes that have imported what most scripts import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rllib_seqmarl.algorithms.srsv"])
    yield context
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def run_as_main(script: str, output: str) -> None:
    """Runs a script of benchmarks/ as ``python`` does, and writes what it prints to a file."""
    with open(output, "w", buffering=1) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.argv = [str(BENCHMARKS / script), *ARGUMENTS[script].split()]
        os.chdir(ROOT)
        runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.mark.parametrize("script", ARGUMENTS)
def test_script_runs(script: str, processes: ForkServerContext, tmp_path: Path) -> None:
    if script in SIMULATORS:
        pytest.importorskip(SIMULATORS[script])
    output = tmp_path / "output"
    process = processes.Process(target=run_as_main, args=(script, str(output)))
    process.start()
    process.join()
    assert process.exitcode == 0, output.read_text()[-3000:]
