"""Recurrent MAPPO against JaxMARL's MAPPO-RNN on SMAX: whole iterations with one thread.

    git clone https://github.com/FLAIROx/JaxMARL CHECKOUT
    git -C CHECKOUT checkout c793d095618c6d3edfb5632802348f57b70a4b94
    pip install distrax hydra-core omegaconf wandb         # what its script imports
    python benchmarks/jaxmarl_mappo.py CHECKOUT

JaxMARL's ``baselines/MAPPO/mappo_rnn_smax.py`` runs as it is, sampling and update compiled as one
program by XLA; without CHECKOUT this package runs alone. Both have the same map, environments,
steps, epochs, minibatches, sequences over the whole rollout, and widths of layers and GRU. What
stays different: JaxMARL has a second hidden layer behind the GRU and no LayerNorm; its critic reads
the state with the agent's number, for every agent. Here the critic reads the state once for the
team (``environment``), or for every agent the state with its observation
(``environment_and_observation``).

Each runs in a process of its own with one thread, and they take turns, iteration by iteration.
Printed are environment steps per second of processor time, by the median iteration.
Compare the ratios: they carry over to other machines, the rates do not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CRITICS = ("environment", "environment_and_observation")


def take_turns(since: float | None) -> float:
    """Tells the processor seconds since the last turn, and waits for the next one."""
    print("took", -1.0 if since is None else time.process_time() - since, flush=True)
    if not sys.stdin.readline():
        os._exit(0)
    return time.process_time()


def jaxmarl(options: argparse.Namespace) -> None:
    """JaxMARL's script; its one call for every iteration, to Weights & Biases, is the turn."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # XLA has one thread per core
    import jax
    import yaml

    folder = Path(options.checkout) / "baselines" / "MAPPO"
    sys.path.insert(0, str(folder))
    import mappo_rnn_smax as script

    began: list[float] = []

    class Turns:
        @staticmethod
        def log(metrics: object) -> None:
            began.append(take_turns(began[-1] if began else None))

    script.wandb = Turns
    config = yaml.safe_load((folder / "config" / "mappo_homogenous_rnn_smax.yaml").read_text())
    config |= {
        "MAP_NAME": options.map,
        "NUM_ENVS": options.envs,
        "NUM_STEPS": options.steps,
        "UPDATE_EPOCHS": options.epochs,
        "NUM_MINIBATCHES": options.minibatches,
        "FC_DIM_SIZE": options.width,
        "GRU_HIDDEN_DIM": options.width,
        "TOTAL_TIMESTEPS": 10_000 * options.envs * options.steps,
    }
    # The script's first states are 128 wide whatever GRU_HIDDEN_DIM is.
    carry = script.ScannedRNN.initialize_carry
    script.ScannedRNN.initialize_carry = staticmethod(lambda rows, _: carry(rows, options.width))
    jax.block_until_ready(jax.jit(script.make_train(config))(jax.random.PRNGKey(0)))


def ours(options: argparse.Namespace) -> None:
    """MAPPO of this package."""
    import ray
    import torch

    from rllib_seqmarl import MAPPOConfig

    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    algorithm = (
        MAPPOConfig()
        .environment("smac", env_config={"map_name": options.map, "state": True})
        .env_runners(num_envs_per_env_runner=options.envs, rollout_fragment_length=options.steps)
        .training(
            recurrent=True,
            state=options.part,
            hidden_sizes=[options.width],
            chunk_length=options.steps,
            num_epochs=options.epochs,
            minibatch_size=options.envs * options.steps // options.minibatches,
            micro_batch_size=None,
        )
        .build_algo()
    )
    algorithm.train()
    began = take_turns(None)
    while True:
        algorithm.train()
        began = take_turns(began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("checkout", nargs="?", help="folder of JaxMARL's repository")
    parser.add_argument("--map", default="3s5z")
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=4, help="JaxMARL's")
    parser.add_argument("--minibatches", type=int, default=4, help="JaxMARL's")
    parser.add_argument("--width", type=int, default=64, help="of layers and GRU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--part", choices=("jaxmarl", *CRITICS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        (jaxmarl if options.part == "jaxmarl" else ours)(options)
        return
    parts = {}
    for part in ("jaxmarl", *CRITICS) if options.checkout else CRITICS:
        command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
        parts[part] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    seconds: dict[str, list[float]] = {part: [] for part in parts}
    for round_ in range(options.rounds + 2):  # the first turn compiles, the second warms up
        for part, process in parts.items():
            assert process.stdin is not None
            assert process.stdout is not None
            if round_:
                process.stdin.write("\n")
                process.stdin.flush()
            for line in process.stdout:
                if line.startswith("took "):
                    break
            else:
                raise SystemExit(f"{part} ended before its turn, see above.")
            if round_ > 1:
                seconds[part].append(float(line.split()[1]))
    for process in parts.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    print(f"{options.map}, {options.envs} envs x {options.steps} steps, width {options.width},")
    print(f"{options.epochs} epochs of {options.minibatches} minibatches, one thread:")
    rates = {
        part: options.envs * options.steps / statistics.median(found)
        for part, found in seconds.items()
    }
    for part, rate in rates.items():
        compared = f", {rate / rates['jaxmarl']:.2f} times JaxMARL's" if options.checkout else ""
        print(f"  {part:28} {rate:7,.0f} steps/s{compared}")


if __name__ == "__main__":
    main()
