"""What the framework costs, beside environment and networks.

    python benchmarks/overhead.py [--map 3s5z] [--iterations 5] [--envs 32]

Prints, from one run: the share of a MAT iteration (32 envs x 100 steps) that is neither
environment nor forward or backward pass, and its speed beside that of a bare loop around the
same networks and envs; and the overhead per environment step of RLlib's
SingleAgentEnvRunner, with the connectors that its episodes need before they can be learned
from, divided by that of the columnar runner, both with the same environment and the same network.
"""

from __future__ import annotations

import argparse
import logging
import time
from typing import Any

import torch
from bare_loop import BareLoop

NETWORK_AND_ENV = ("environment", "decode", "forward_backward")


def overhead_share(options: argparse.Namespace) -> None:
    """Trains MAT and prints where the seconds of an iteration go."""
    bare = bare_loop(options)
    algorithm = config(options).build_algo()
    algorithm.train()  # compilation
    totals: dict[str, float] = {}
    begin = time.perf_counter()
    for _ in range(options.iterations):
        for name, seconds in algorithm.train()["time_split"].items():
            totals[name] = totals.get(name, 0.0) + float(seconds)
    whole = time.perf_counter() - begin
    algorithm.stop()
    steps = options.iterations * options.envs * options.steps
    print(f"\nMAT on SMAX {options.map}, {options.envs} envs x {options.steps} steps:")
    totals["rest of the iteration"] = whole - sum(totals.values())
    for name, seconds in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"  {name:24} {seconds / whole:6.1%}")
    overhead = whole - sum(totals[name] for name in NETWORK_AND_ENV)
    print(f"  framework overhead       {overhead / whole:6.1%}")
    print(f"  speed / that of a bare loop without Ray: {steps / whole / bare:.2f}")
    print(f"  ({steps / whole:,.0f} and {bare:,.0f} environment steps per second in this run)")


class Clock:
    """Seconds spent inside the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, owner: Any, name: str) -> None:
        """Times ``owner.name`` from now on."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begin

        setattr(owner, name, timed)


def runner_overhead(runner: Any, env: Any, convert: Any, options: argparse.Namespace) -> float:
    """Microseconds per environment step outside of environment and network."""
    steps_at_once = options.envs * options.steps
    runner.sample(num_timesteps=steps_at_once)
    clock = Clock()
    clock.wrap(env, "step")
    clock.wrap(runner.module, "forward_exploration")
    steps = 0
    begin = time.perf_counter()
    for _ in range(options.iterations):
        sampled = runner.sample(num_timesteps=steps_at_once)
        steps += sum(one.env_steps() for one in sampled)
        convert(sampled)
        runner.get_metrics()
    return 1e6 * (time.perf_counter() - begin - clock.seconds) / steps


def compare_runners(options: argparse.Namespace) -> None:
    """Prints the ratio of the two runners' overheads."""
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    from rllib_seqmarl import registry
    from rllib_seqmarl.rollout.rollout_batch import concatenate
    from rllib_seqmarl.rollout.runner import TeamEnvRunner

    creator = registry.environment_creator("smac")
    ours = TeamEnvRunner(config=config(options), env_creator=creator, worker_index=0)
    columns = runner_overhead(
        ours,
        ours.env,
        lambda rollouts: {k: torch.as_tensor(v) for k, v in concatenate(rollouts).columns.items()},
        options,
    )

    stock_config = config(options, autoreset="next_step")
    stock_config.env_runners(gym_env_vectorize_mode="vector_entry_point")
    stock = SingleAgentEnvRunner(config=stock_config, worker_index=0)
    module = MultiRLModule(rl_module_specs={})
    module.add_module("default_policy", stock.module)
    connector = stock_config.build_learner_connector(
        input_observation_space=None, input_action_space=None
    )
    episodes = runner_overhead(
        stock,
        stock.env.unwrapped,
        lambda sampled: connector(
            rl_module=module, batch={}, episodes=sampled, shared_data={}, metrics=stock.metrics
        ),
        options,
    )
    print(f"\nOverhead per environment step on SMAX {options.map}, same envs and network:")
    print(f"  SingleAgentEnvRunner / columnar runner: {episodes / columns:.1f} times")
    print(f"  ({episodes:.1f} and {columns:.1f} microseconds in this run)")


def bare_loop(options: argparse.Namespace) -> float:
    """Steps per second of MAT without Ray: the least that these networks and envs cost."""
    size = {"envs": options.envs, "steps": options.steps, "epochs": options.epochs}
    loop = BareLoop("MAT", options.map, **size)
    loop.iterate()  # compiles
    seconds = sum(loop.iterate() for _ in range(options.iterations))
    return options.iterations * options.envs * options.steps / seconds


def config(options: argparse.Namespace, **env_config: Any) -> Any:
    """MAT of that many envs and steps."""
    from rllib_seqmarl import MATConfig

    built = MATConfig().environment("smac", env_config={"map_name": options.map, **env_config})
    built.env_runners(num_envs_per_env_runner=options.envs, rollout_fragment_length=options.steps)
    built.training(num_epochs=options.epochs)
    built.seed = 0
    built.validate()
    return built


def main() -> None:
    """Runs both measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--map", default="3s5z")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100, help="of each env per iteration")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    import ray

    torch.set_num_threads(1)
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    compare_runners(arguments)
    overhead_share(arguments)


if __name__ == "__main__":
    main()
