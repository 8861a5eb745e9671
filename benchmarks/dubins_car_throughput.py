"""Env steps per second of DubinsCar, and what its parts cost.

Run: ``python benchmarks/dubins_car_throughput.py [--seconds 2]``.
Uniform random actions, resets included, one core. The ratios to the first line carry over to
other machines, the rates do not. Then the two neighbour searches against each other, which is
where the number of cars from which the tree is used comes from.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from rllib_seqmarl import registry
from rllib_seqmarl.envs.dubins_car.neighbours import DENSE_LIMIT, neighbours
from rllib_seqmarl.envs.dubins_car.obstacles import REACH

dubins_car = registry.environment("dubins_car")

CASES: list[tuple[int, int, dict[str, Any]]] = [
    (64, 8, {"obstacles": 0, "num_rays": 1}),
    (64, 8, {}),
    (64, 8, {"num_rays": 32}),
    (1, 8, {}),
    (8, 64, {}),
    (1, 256, {}),
    (1, 1024, {}),
    (16, 1024, {}),
    (1, 1024, {"obstacles": "density"}),
    (1, 4096, {}),
]
REPEATS = 4


def rate(call: Callable[[], Any], seconds: float) -> float:
    """Calls per second, the best of some repetitions: what else the machine does only slows."""
    best = 0.0
    for _ in range(REPEATS):
        calls, begin = 0, time.perf_counter()
        while (passed := time.perf_counter() - begin) < seconds / REPEATS or calls < 2:
            call()
            calls += 1
        best = max(best, calls / passed)
    return best


def steps_per_second(envs: int, cars: int, config: dict[str, Any], seconds: float) -> float:
    """Env steps per second."""
    env = dubins_car.make(envs, num_agents=cars, **config)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, (16, envs, cars, 2)).astype(np.float32)
    drawn = cycle(actions)
    return envs * rate(lambda: env.step(next(drawn)), seconds)


def compare_searches(seconds: float) -> None:
    """Prints the time of the tree over that of all distances, by the number of cars."""
    print(f"\nNeighbour search, tree / dense time (the tree is used above {DENSE_LIMIT} cars):")
    for envs, cars in ((64, 8), (16, 64), (8, 128), (1, 256), (1, 1024)):
        side = np.sqrt(2.0 * cars)
        rng = np.random.default_rng(0)
        x, y = rng.uniform(0.0, side, (2, envs, cars)).astype(np.float32)
        dense = rate(partial(neighbours, x, y, REACH, True), seconds)
        tree = rate(partial(neighbours, x, y, REACH, False), seconds)
        print(f"  {envs:3} x {cars:<5} {dense / tree:6.2f}")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="per line")
    seconds = parser.parse_args().seconds
    print("envs x cars   env_config                             env steps/s  car steps/s  ratio")
    first = 0.0
    for envs, cars, config in CASES:
        steps = steps_per_second(envs, cars, config, seconds)
        first = first or steps * cars
        print(
            f"{envs:4} x {cars:<5}    {config!s:38} {steps:13,.0f} {steps * cars:12,.0f} "
            f"{steps * cars / first:6.2f}"
        )
    compare_searches(seconds)


if __name__ == "__main__":
    main()
