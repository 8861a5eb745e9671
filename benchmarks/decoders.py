"""Times the ways of decoding N actions against each other, in one run, on one CPU thread.

    python benchmarks/decoders.py                      # all sizes, a few minutes
    python benchmarks/decoders.py --agents 3 8 --batches 32
    python benchmarks/decoders.py --agents 64 256 --neighbours 8
    python benchmarks/decoders.py --checkpoint PATH    # a trained policy, in its environment

Rows are (kind of action, weights, N agents, B rows). Times are lower quartiles over rounds in
each of which every method runs once, and of this thread alone: what else the machine does falls on
all of them, and only adds. "auto/best" is the time of `auto`, after its trials at the start, over
that of the fastest set method.

Weights: ``untrained``; ``sure``: the last layer orthogonal with gain 3; ``coupled``: besides, all
other linear layers orthogonal with gain 1 (0.01 in most of them when untrained), so that every
action depends strongly on those before it and the fixed point needs many passes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.nets.decoding.decode import FIXED_METHODS, TRIALS, Decoding
from rllib_seqmarl.nets.distributions import ActionDistribution, Categorical, DiagonalGaussian
from rllib_seqmarl.nets.orders.base import neighbours_in_order
from rllib_seqmarl.nets.transformer.model import ActionSpec, Decoder

AGENTS = (3, 8, 27, 64, 256, 1024)
BATCHES = (1, 32, 256)
WEIGHTS = ("untrained", "sure", "coupled")
WIDTH, ACTIONS = 64, 14

#: Calls of `auto` before it is timed, and seconds: whichever is more.
START_UP = 2 * TRIALS + 4, 0.3


class Case(NamedTuple):
    """What is decoded, and how the row is called."""

    name: str
    decoder: Decoder
    distribution: ActionDistribution
    encoded: Tensor  # [B, N, D]
    mask: Tensor | None
    noise: Tensor | None
    neighbours: Tensor | None = None  # int [B, N, K]; None: all attend to all

    def run(self, decoding: Decoding) -> None:
        attended = neighbours_in_order(self.neighbours, None)
        inputs = self.decoder, self.distribution, self.encoded, self.mask, self.noise
        decoding(*inputs, neighbours=attended)


def made_up_case(
    discrete: bool, weights: str, agents: int, batch: int, num_neighbours: int | None = None
) -> Case:
    torch.manual_seed(0)
    decoder = Decoder(ActionSpec(ACTIONS, discrete), WIDTH, blocks=1, heads=1)
    if weights == "coupled":
        for module in decoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight)
    if weights != "untrained":
        nn.init.orthogonal_(decoder.head[-1].weight, gain=3.0)
    distribution = Categorical(ACTIONS) if discrete else DiagonalGaussian(ACTIONS)
    encoded = torch.randn(batch, agents, WIDTH)
    mask = None
    if discrete:
        mask = (torch.rand(batch, agents, ACTIONS) < 0.7) | (torch.arange(ACTIONS) == 0)
    noise = distribution.noise((batch, agents), encoded.device, None)
    neighbours = None
    if num_neighbours is not None:  # those next to an agent in a circle
        offsets = torch.arange(1, num_neighbours + 1) - (num_neighbours + 1) // 2
        offsets[offsets <= 0] -= 1
        own = torch.arange(agents).unsqueeze(1)
        neighbours = ((own + offsets) % agents).expand(batch, -1, -1)
    kind = "discrete" if discrete else "continuous"
    return Case(f"{kind:10} {weights:9}", decoder, distribution, encoded, mask, noise, neighbours)


def trained_case(checkpoint: str, batch: int, steps: int = 20) -> Case:
    """A trained policy on what it sees after some steps in its own environment."""
    from rllib_seqmarl import registry
    from rllib_seqmarl.experiments.evaluate.evaluation import MODULE_PATH, load_config
    from rllib_seqmarl.learning.sequential.module import SequentialModule
    from rllib_seqmarl.nets.orders.base import to_order

    config = load_config(checkpoint)
    module = SequentialModule.from_checkpoint(f"{checkpoint}/{MODULE_PATH}")
    policy = module.policy
    env = registry.make_environment(config.env, batch, config.env_config)
    obs, _ = env.reset(seed=0)
    for step in range(steps + 1):
        seen = torch.as_tensor(obs["obs"])
        mask = torch.as_tensor(obs["action_mask"]).bool() if "action_mask" in obs else None
        decision = policy.act(seen, mask, deterministic=False)
        if step < steps:
            obs, *_ = env.step(decision.actions.numpy())
    env.close()
    with torch.no_grad():
        encoded = to_order(policy.encoder(seen), decision.order)
    mask = None if mask is None else to_order(mask, decision.order)
    noise = policy.distribution.noise(tuple(encoded.shape[:2]), encoded.device, None)
    kind = "discrete" if policy.action.discrete else "continuous"
    name = f"{kind:10} {'trained':9}"
    return Case(name, policy.decoder, policy.distribution, encoded, mask, noise)


def seconds(call: Callable[[], object]) -> float:
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def measure(case: Case, budget: float, limit: float) -> dict[str, float]:
    """Seconds per method; ``stepwise`` is left out where one call takes over ``limit``."""
    ways = {name: Decoding(name) for name in (*FIXED_METHODS, "auto")}
    agents = case.encoded.shape[1]
    with torch.no_grad():
        tokens = case.decoder.start_tokens(len(case.encoded), agents)
        one_pass = seconds(lambda: case.decoder(tokens, case.encoded))
    stepwise = one_pass * agents
    if stepwise > limit:
        del ways["stepwise"]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name in ("cached", "parallel"):
        case.run(ways[name])
    calls, begin = 0, time.perf_counter()
    while calls < START_UP[0] or time.perf_counter() - begin < START_UP[1]:
        case.run(ways["auto"])
        calls += 1
    order = list(ways)
    end = time.perf_counter() + budget
    while len(times["auto"]) < 8 or time.perf_counter() < end:
        # Another first one in every round: it finds the processor's caches cold.
        order.append(order.pop(0))
        for name in order:
            # One slow call of what is far behind is enough.
            if name != "stepwise" or not times[name] or stepwise < 0.05 * budget:
                times[name].append(seconds(lambda way=ways[name]: case.run(way)))
    return {name: float(np.quantile(values, 0.25)) for name, values in times.items()}


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    if arguments.checkpoint:
        for batch in arguments.batches:
            yield trained_case(arguments.checkpoint, batch)
        return
    for discrete in (True, False):
        for weights in WEIGHTS:
            for agents in arguments.agents:
                for batch in arguments.batches:
                    if batch * agents <= arguments.max_decisions:
                        yield made_up_case(discrete, weights, agents, batch, arguments.neighbours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--agents", type=int, nargs="+", default=AGENTS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--neighbours", type=int, help="agents attend to so many (even) others")
    parser.add_argument("--checkpoint", help="time a trained policy in its own environment instead")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds per row, at least")
    parser.add_argument(
        "--limit", type=float, default=10.0, help="seconds that one call of stepwise may take"
    )
    parser.add_argument(
        "--max-decisions", type=int, default=35_000, help="rows with a larger B x N are left out"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; milliseconds per joint decision of B rows")
    print(
        f"{'':20} {'N':>5} {'B':>4} {'stepwise':>9} {'cached':>9} {'parallel':>9} {'auto':>9}   "
        "cached/parallel  stepwise/parallel  auto/best"
    )
    worst: list[tuple[float, str]] = []
    for case in cases(arguments):
        with multiply_with("auto"):  # as in a training
            times = measure(case, arguments.budget, arguments.limit)
        batch, agents, _ = case.encoded.shape
        best = min(value for name, value in times.items() if name != "auto")
        label = f"{case.name} {agents:5} {batch:4}"
        stepwise = f"{1e3 * times['stepwise']:9.2f}" if "stepwise" in times else "  skipped"
        over_stepwise = (
            f"{times['stepwise'] / times['parallel']:17.1f}"
            if "stepwise" in times
            else f"{'-':>17}"
        )
        print(
            f"{label} {stepwise} {1e3 * times['cached']:9.2f} {1e3 * times['parallel']:9.2f} "
            f"{1e3 * times['auto']:9.2f}   {times['cached'] / times['parallel']:15.2f}  "
            f"{over_stepwise}  {times['auto'] / best:9.2f}",
            flush=True,
        )
        worst.append((times["auto"] / best, label))
    if not arguments.checkpoint:
        print(
            f"Left out: B x N over {arguments.max_decisions}; skipped: stepwise where one call "
            f"takes over {arguments.limit:g} s."
        )
    beyond = sorted((row for row in worst if row[0] > 1.10), reverse=True)
    print(f"auto is more than 10 % behind the best in {len(beyond)} of {len(worst)} rows.")
    for ratio, label in beyond:
        print(f"  {label}  {ratio:.2f}")


if __name__ == "__main__":
    main()
