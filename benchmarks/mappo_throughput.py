"""What MAPPO costs: iterations on 3s5z against MAT's, and actors of their own against shared ones.

    python benchmarks/mappo_throughput.py                 # both tables, some minutes
    python benchmarks/mappo_throughput.py --tables act

``iterations``: environment steps per second of whole iterations on SMAX's 3s5z, with the settings
of the tuned examples and with as many epochs as MAT, over MAT's. ``act``: milliseconds of deciding
for 32 envs with one actor for all agents, and those of an actor for each over it. All that is
compared takes turns; every figure is a lower quartile of processor times of this process, so that
what else the machine does falls on it little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import discrete_actions, observation_space
from rllib_seqmarl.experiments.spec.check import check
from rllib_seqmarl.experiments.spec.experiment import Overrides, load_file
from rllib_seqmarl.rollout.rollout_batch import ACTION_MASK, OBS

AGENTS, ENVS, WIDTH, ACTIONS = (3, 8, 27), 32, 80, 14
EXAMPLES = Path(__file__).parents[1] / "tuned_examples"


def quartiles(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of a call, each of which is made once per round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for round_ in range(rounds + 1):
        order.append(order.pop(0))  # another first one: it finds the processor's caches cold
        for name in order:
            begin = time.process_time()
            calls[name]()
            if round_:  # the first call allocates and warms up
                times[name].append(time.process_time() - begin)
    return {name: float(np.quantile(values, 0.25)) for name, values in times.items()}


def act(recurrent: bool, rounds: int) -> None:
    """The second table."""
    for agents in AGENTS:
        obs = {
            OBS: torch.randn(ENVS, agents, WIDTH),
            ACTION_MASK: torch.ones(ENVS, agents, ACTIONS, dtype=torch.bool),
        }
        calls: dict[str, Callable[[], object]] = {}
        for name, share in (("shared", True), ("separate", False)):
            config = registry.config_class("MAPPO")()
            config.update_from_dict(
                {"share_parameters": share, "recurrent": recurrent, "state": "observations"}
            )
            spec = config.get_default_rl_module_spec()
            spec.observation_space = observation_space(agents, WIDTH, ACTIONS)
            spec.action_space = discrete_actions(agents, ACTIONS)
            spec.inference_only = True
            module = spec.build().eval()
            batch = {Columns.OBS: obs}
            calls[name] = lambda module=module, batch=batch: module.forward_exploration(batch)
        found = quartiles(calls, rounds)
        kind = "recurrent" if recurrent else "feed-forward"
        print(
            f"act, {kind:12} N {agents:3}  shared {1e3 * found['shared']:6.2f} ms, "
            f"separate {found['separate'] / found['shared']:.2f} times that",
            flush=True,
        )


def iterations(rounds: int) -> None:
    """The first table."""
    calls: dict[str, Callable[[], Any]] = {}
    epochs: dict[str, int] = {}
    for name, file, changes in (
        ("MAT", "mat_smac.yaml", {}),
        ("MAPPO", "mappo_smac.yaml", {}),
        ("MAPPO, MAT's epochs", "mappo_smac.yaml", {"num_epochs": None}),
        ("HAPPO", "happo_smac.yaml", {}),
        ("A2PO", "a2po_smac.yaml", {}),
    ):
        (spec,) = load_file(str(EXAMPLES / file), Overrides())
        (variant,) = check(spec)
        config = registry.config_class(spec.algorithm)()
        config.update_from_dict({**variant, "evaluation_interval": None})
        for key in changes:
            setattr(config, key, epochs["MAT"])
        epochs[name] = config.num_epochs
        calls[name] = config.build_algo().train
    found = quartiles(calls, rounds)
    for name, seconds in found.items():
        print(
            f"iteration, {name:20} {epochs[name]:3} epochs  {seconds:6.2f} s of processor, "
            f"{found['MAT'] / seconds:.2f} times MAT's steps per second",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tables", choices=("act", "iterations", "all"), default="all")
    parser.add_argument("--rounds", type=int, default=3, help="of iterations; of `act` 50 times")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tables != "iterations":
        for recurrent in (False, True):
            act(recurrent, 50 * arguments.rounds)
    if arguments.tables != "act":
        import ray

        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        iterations(arguments.rounds)


if __name__ == "__main__":
    main()
