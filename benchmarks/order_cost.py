"""What an order that is learned costs in the rollout: `act` of PMAT and AOAD-MAT over MAT's.

    python benchmarks/order_cost.py                       # N = 3 .. 64, a few minutes
    python benchmarks/order_cost.py --agents 8 --envs 32

Every row is (weights, N agents, E envs): milliseconds of MAT per environment step of all envs
and, over it, those of the others, each with the way of decoding that is the fastest for it. Times
are lower quartiles over rounds in each of which every policy acts once; they are of this thread
alone, so that what else the machine does falls on them little. Only `act` is timed, encoder
included; the environment's own time would bring all ratios closer to 1.

Weights: ``untrained``, and ``sure``: all output layers orthogonal with gain 3, as in a policy that
knows what it wants.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.nets.decoding.decode import CANDIDATES
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec

AGENTS = (3, 5, 8, 16, 32, 64)
WEIGHTS = ("untrained", "sure")
OBS, ACTIONS = 80, 14

#: What is compared: the name of a column -> order and its settings.
POLICIES = {
    "MAT": ("index", {}),
    "rMAT": ("random", {}),
    "PMAT": ("plackett_luce", {}),
    "AOAD-MAT": ("next_agent", {}),
    "pointer": ("next_agent", {"head": "pointer"}),
}


def make_policy(name: str, decoding: str, agents: int, weights: str) -> SequentialPolicy:
    torch.manual_seed(0)
    order, settings = POLICIES[name]
    policy = SequentialPolicy(
        obs_dim=OBS,
        action=ActionSpec(ACTIONS, discrete=True),
        num_agents=agents,
        order=order,
        order_settings=settings,
        decoding=decoding,
    ).eval()
    if weights == "sure":
        for module in policy.modules():
            if isinstance(module, nn.Linear) and module.out_features in (ACTIONS, agents, 1):
                nn.init.orthogonal_(module.weight, gain=3.0)
    return policy


def measure(agents: int, envs: int, weights: str, budget: float) -> dict[str, float]:
    """Seconds of one step of all envs, for each policy."""
    obs = torch.randn(envs, agents, OBS)
    mask = (torch.rand(envs, agents, ACTIONS) < 0.7) | (torch.arange(ACTIONS) == 0)
    acts: dict[tuple[str, str], Callable[[], object]] = {}
    for key in itertools.product(POLICIES, CANDIDATES):
        policy = make_policy(*key, agents, weights)
        acts[key] = lambda policy=policy: policy.act(obs, mask, deterministic=False)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in acts}
    order = list(acts)
    end = time.perf_counter() + budget
    rounds = 0
    while rounds < 15 or time.perf_counter() < end:
        # Another first one in every round: it finds the processor's caches cold.
        order.append(order.pop(0))
        for key in order:
            begin = time.thread_time()
            acts[key]()
            if rounds:  # the first call allocates and warms up
                times[key].append(time.thread_time() - begin)
        rounds += 1
    quartiles = {key: float(np.quantile(values, 0.25)) for key, values in times.items()}
    return {name: min(quartiles[name, way] for way in CANDIDATES) for name in POLICIES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--agents", type=int, nargs="+", default=AGENTS)
    parser.add_argument("--envs", type=int, nargs="+", default=(32,))
    parser.add_argument("--budget", type=float, default=3.0, help="seconds per row, at least")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    others = [name for name in POLICIES if name != "MAT"]
    print(f"torch {torch.__version__}, one thread; the last columns are times over MAT's")
    print(f"{'':9} {'N':>4} {'E':>4} {'MAT, ms':>9} " + " ".join(f"{n:>9}" for n in others))
    for weights in WEIGHTS:
        for agents in arguments.agents:
            for envs in arguments.envs:
                with multiply_with("auto"):  # as in a training
                    times = measure(agents, envs, weights, arguments.budget)
                ratios = " ".join(f"{times[name] / times['MAT']:9.2f}" for name in others)
                print(
                    f"{weights:9} {agents:4} {envs:4} {1e3 * times['MAT']:9.2f} {ratios}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
