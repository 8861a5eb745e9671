"""Environment steps per second of the SMAX team environment, against JaxMARL's own interface.

Run: ``python benchmarks/smax_throughput.py [--seconds 2] [--maps 3m 2s3z 3s5z]``.
Uniform random legal actions, sampling included, one core. Three ways in the same run:

- ``ours``: one call steps all E envs;
- ``vmap``: JaxMARL's ``step`` under ``jit(vmap(...))``, outputs stacked and brought to NumPy;
- ``loop``: JaxMARL's ``step`` per env with its dicts, as its documentation shows it.

Compare the ratios: they carry over to other machines, the rates do not.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import random_actions

smac = registry.environment("smac")

REPEATS = 3


def rate(step: Callable[[], None], envs: int, seconds: float) -> float:
    """The best of some repetitions, in environment steps per second."""
    best = 0.0
    for _ in range(REPEATS):
        calls, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds / REPEATS:
            step()
            calls += 1
        best = max(best, calls * envs / passed)
    return best


def ours(map_name: str, envs: int) -> Callable[[], None]:
    env = smac.make(envs, map_name=map_name, agent_id=False)
    rng = np.random.default_rng(0)
    obs, _ = env.reset(seed=0)

    def step() -> None:
        nonlocal obs
        obs, *_ = env.step(random_actions(env, obs, rng))

    return step


def vmapped(map_name: str, envs: int) -> Callable[[], None]:
    import jax
    import jax.numpy as jnp

    env = smac.make(1, map_name=map_name).jaxmarl_env
    rng = np.random.default_rng(0)

    @jax.jit
    def run(key, state, actions):  # type: ignore[no-untyped-def]
        named = {agent: actions[:, slot] for slot, agent in enumerate(env.agents)}
        obs, state, reward, done, _ = jax.vmap(env.step)(key, state, named)
        mask = jax.vmap(env.get_avail_actions)(state)
        stacked = [jnp.stack([part[a] for a in env.agents], axis=1) for part in (obs, mask)]
        # The first step makes a weakly typed leaf strong: without this it is compiled twice.
        state = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype), state)
        return state, stacked, reward[env.agents[0]], done["__all__"]

    def keys() -> np.ndarray:
        return rng.integers(2**32, size=(envs, 2), dtype=np.uint32)

    _, state = jax.jit(jax.vmap(env.reset))(keys())
    mask = np.stack(list(jax.vmap(env.get_avail_actions)(state).values()), axis=1)

    def step() -> None:
        nonlocal state, mask
        actions = np.where(mask, rng.random(mask.shape, np.float32), -1.0).argmax(-1)
        state, (obs, mask), reward, done = run(keys(), state, actions.astype(np.int32))
        np.array(obs), np.array(reward), np.array(done)
        mask = np.array(mask)

    return step


def looped(map_name: str, envs: int) -> Callable[[], None]:
    env = smac.make(1, map_name=map_name).jaxmarl_env
    rng = np.random.default_rng(0)

    def key() -> np.ndarray:
        return rng.integers(2**32, size=2, dtype=np.uint32)

    states = [env.reset(key())[1] for _ in range(envs)]

    def step() -> None:
        for e, state in enumerate(states):
            mask = env.get_avail_actions(state)
            actions = {
                agent: rng.choice(np.flatnonzero(np.asarray(mask[agent]))).astype(np.int32)
                for agent in env.agents
            }
            obs, states[e], reward, done, _ = env.step(key(), state, actions)
            np.stack([obs[agent] for agent in env.agents])
            float(reward[env.agents[0]]), bool(done["__all__"])

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--maps", nargs="+", default=["3m", "2s3z", "3s5z"])
    parser.add_argument("--envs", nargs="+", type=int, default=[8, 32, 128])
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{'map':>6} {'E':>4} {'ours/s':>10} {'vmap/s':>10} {'loop/s':>8}  ratios")
    for map_name in args.maps:
        for envs in args.envs:
            rates = []
            for build in (ours, vmapped, looped):
                step = build(map_name, envs)
                for _ in range(3):
                    step()
                rates.append(rate(step, envs, args.seconds))
            mine, mapped, single = rates
            print(
                f"{map_name:>6} {envs:>4} {mine:>10.0f} {mapped:>10.0f} {single:>8.0f}  "
                f"{mine / mapped:.1f} x vmap, {mine / single:.0f} x loop",
                flush=True,
            )


if __name__ == "__main__":
    main()
