"""Seeded trainings of every algorithm, two iterations each, and every figure that they log.

python benchmarks/seeded_figures.py --write figures.json      (before a change)
python benchmarks/seeded_figures.py --compare figures.json    (after it)
python benchmarks/seeded_figures.py --checkpoints FOLDER      (one checkpoint per family)
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from rllib_seqmarl import registry

TOY = ("distinct_actions", {"episode_length": 3})
CONTINUOUS = ("distinct_actions", {"continuous": True, "episode_length": 3, "min_gap": 0.2})
CUE = ("private_cue", {})
CARS = ("dubins_car", {"num_agents": 6, "neighbours": True})
LOCAL = {"attention": "neighbours"}
CHUNKS = {"recurrent": True, "chunk_length": 5}

#: Name of a run -> algorithm, environment, settings.
RUNS: dict[str, tuple[str, tuple[str, dict[str, Any]], dict[str, Any]]] = {
    "MAT": ("MAT", TOY, {}),
    "SrSv": ("SrSv", TOY, {}),
    "SrSv drawn values": ("SrSv", TOY, {"value_loss_agents": 2}),
    "PMAT": ("PMAT", TOY, {}),
    "AOAD-MAT": ("AOAD-MAT", TOY, {}),
    "MAPPO": ("MAPPO", TOY, {}),
    "HAPPO": ("HAPPO", TOY, {}),
    "A2PO": ("A2PO", TOY, {}),
    "COMA": ("COMA", TOY, {}),
    "SeCA": ("SeCA", TOY, {}),
    "LICA": ("LICA", TOY, {}),
    "RIIT": ("RIIT", TOY, {}),
    "SCC": ("SCC", TOY, {}),
    "MAT continuous": ("MAT", CONTINUOUS, {"num_blocks": 2, "num_heads": 2}),
    "MAT random order": ("MAT", CUE, {"order": "random", "order_granularity": "episode"}),
    "MAT on SMAX": ("MAT", ("smac", {"map_name": "3m"}), {}),
    "MAT on cars": ("MAT", CARS, {**LOCAL, "num_blocks": 2}),
    "MAT decoder value": ("MAT", TOY, {"value": "decoder"}),
    "MAT gru": ("MAT", TOY, {"network": "gru"}),
    "MAT decentralised": ("MAT", TOY, {"network": "mat_dec"}),
    "SrSv continuous": ("SrSv", CONTINUOUS, {"num_heads": 2}),
    "SrSv per minibatch": (
        "SrSv",
        TOY,
        {"successors": "greedy_per_minibatch", "num_blocks": 2},
    ),
    "SrSv teacher forced": ("SrSv", TOY, {"successors": "teacher_forced"}),
    "SrSv without pi": ("SrSv", CUE, {"use_successor_policy": False}),
    "SrSv on cars": ("SrSv", CARS, {**LOCAL, "num_blocks": 2, "value_agents": 4}),
    "SrSv mlp": ("SrSv", TOY, {"network": "mlp"}),
    "SrSv gnn": ("SrSv", TOY, {"network": "gnn"}),
    "SrSv encoder": ("SrSv", TOY, {"network": "encoder"}),
    "SrSv decoder": ("SrSv", TOY, {"network": "decoder"}),
    "PMAT as published": ("PMAT", CUE, {"train_in_sampled_order": False, "share_hidden": True}),
    "PMAT with SrSv's value": ("PMAT", TOY, {"value": "sequential", "order_entropy_coeff": 0.01}),
    "AOAD-MAT sum": (
        "AOAD-MAT",
        CONTINUOUS,
        {"next_agent_loss": "sum", "next_agent_advantage": "mean", "next_agent_head": "pointer"},
    ),
    "MAPPO recurrent": ("MAPPO", CUE, CHUNKS),
    "HAPPO recurrent": ("HAPPO", CONTINUOUS, CHUNKS),
    "A2PO recurrent": ("A2PO", TOY, {**CHUNKS, "share_parameters": True}),
    "A2PO groups": ("A2PO", CONTINUOUS, {"num_agent_groups": 2, "two_stage": True}),
    "SeCA previous episode": ("SeCA", CUE, {"order_source": "previous_episode"}),
    "SeCA counterfactual": ("SeCA", TOY, {"advantage": "counterfactual", "order": "fixed"}),
    "COMA epsilon": ("COMA", TOY, {"epsilon": 0.2}),
}

#: One per family of learners.
CHECKPOINTS = ("SrSv", "PMAT", "AOAD-MAT", "MAPPO recurrent", "A2PO", "SeCA", "COMA")

#: Times and what depends on them.
_NOT_REPEATABLE = ("time", "timer", "perf", "throughput", "seconds", "memory", "cpu", "ram")


def config_of(run: str) -> Any:
    """A config of seconds."""
    algorithm, (env, env_config), settings = RUNS[run]
    config = registry.config_class(algorithm)()
    config.environment(env, env_config=dict(env_config))
    sizes: dict[str, Any] = {
        "num_envs_per_env_runner": 8,
        "rollout_fragment_length": 10,
        "num_epochs": 2,
        "minibatch_size": 30,
        "seed": 7,
    }
    for name in ("embed_dim", "hidden_dim", "hypernet_dim", "critic_dim"):
        if hasattr(config, name):
            sizes[name] = 16
    if hasattr(config, "hidden_sizes"):
        sizes["hidden_sizes"] = [16, 16]
    if hasattr(config, "state"):
        sizes["state"] = "observations"
    config.update_from_dict({**sizes, **settings})
    return config


def figures(
    run: str, checkpoints: Path | None = None, more: dict[str, Any] | None = None
) -> dict[str, float]:
    """All numbers that two iterations report, and a digest of the weights.

    With ``more`` settings where they are given.
    """
    config = config_of(run)
    config.update_from_dict(more or {})
    algorithm = config.build_algo()
    found = train_once(algorithm, 1)
    if checkpoints is not None:
        algorithm.save_to_path(str((checkpoints / run.replace(" ", "_")).resolve()))
    found |= train_once(algorithm, 2) | digest_of_weights(algorithm)
    algorithm.stop()
    return found


def train_once(algorithm: Any, iteration: int) -> dict[str, float]:
    """All numbers that one iteration reports."""
    found: dict[str, float] = {}
    result = algorithm.train()
    for key in ("env_runners", "learners"):
        _collect(f"{iteration}/{key}", result[key], found)
    return found


def digest_of_weights(algorithm: Any) -> dict[str, float]:
    """Sums over all weights of the one learner; counts are none."""

    def digest(learner: Any) -> dict[str, float]:
        state = learner.module["default_policy"].state_dict()
        state = {name: value for name, value in state.items() if value.is_floating_point()}
        sums = {name: value.double().sum().item() for name, value in sorted(state.items())}
        squares = sum(value.double().square().sum().item() for value in state.values())
        return {"weights/sum": sum(sums.values()), "weights/squares": squares}

    (one,) = algorithm.learner_group.foreach_learner(digest)
    return one.get() if hasattr(one, "get") else one


def _collect(path: str, value: Any, found: dict[str, float]) -> None:
    if isinstance(value, dict):
        for name, below in value.items():
            if name != "sample" and not any(word in name for word in _NOT_REPEATABLE):
                _collect(f"{path}/{name}", below, found)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found[path] = float(value)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--runs", nargs="*", default=list(RUNS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.checkpoints is not None:
        arguments.checkpoints.mkdir(parents=True, exist_ok=True)
    runs = CHECKPOINTS if arguments.checkpoints else arguments.runs
    seen = {}
    known = json.loads(arguments.compare.read_text()) if arguments.compare else {}
    wrong = 0
    for run in runs:
        seen[run] = figures(run, arguments.checkpoints)
        if run in known:
            old, new = known[run], seen[run]
            for name, value in old.items():
                now = new.get(name, math.nan)
                same = now == value or (math.isnan(now) and math.isnan(value) and name in new)
                if not same:
                    wrong += 1
                    print(f"{run}: {name} was {value!r}, is {now!r}", flush=True)
            print(f"{run}: {len(old)} figures compared, {len(set(new) - set(old))} new", flush=True)
    if arguments.write:
        arguments.write.write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
