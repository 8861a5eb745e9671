"""MAPPO with a team of one against RLlib's PPO: environment steps to reach a return.

    python benchmarks/mappo_against_ppo.py                      # CartPole, some minutes
    python benchmarks/mappo_against_ppo.py --task Pendulum-v1

Both have the same batches, minibatches, epochs, learning rate, clip range, gamma, lambda, gradient
clipping, entropy bonus (none), tanh networks of the same widths with LayerNorm and orthogonal
weights, apart for policy and value, and standardised advantages. What stays different is the
value: RLlib's learns returns as they are by their squared error, MAPPO's learns returns by their
running mean and deviation, with a clipped Huber loss; LayerNorm stands before the activation in
RLlib's network and behind it in MAPPO's, whose input is normalised too where ``--feature-norm`` is
given; RLlib clips the gradients of policy and value as one. A Gaussian's deviation is exp of a
parameter in RLlib's and half the sigmoid of one in MAPPO's.

Every line of a run: environment steps and the mean return of the last 20 episodes, exploring. At
the end, the steps at which each level was first reached, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rllib_seqmarl.algorithms.mappo import MAPPOConfig

#: Levels of the return, steps after which a run ends, and what suits the task, for both.
TASKS: dict[str, tuple[tuple[float, ...], int, dict[str, Any]]] = {
    "CartPole-v1": ((150.0, 400.0), 100_000, {"gamma": 0.99, "lr": 5e-4}),
    "Pendulum-v1": ((-800.0, -300.0), 300_000, {"gamma": 0.95, "lr": 1e-3}),
}
ENVS, STEPS, MINIBATCH, EPOCHS, HIDDEN = 8, 256, 256, 10, [64, 64]
COMMON = {"lambda_": 0.95, "clip_param": 0.2, "grad_clip": 10.0, "entropy_coeff": 0.0}
LAST_EPISODES = 20


def mappo(task: str, seed: int, settings: dict[str, Any], feature_norm: bool) -> Any:
    return (
        MAPPOConfig()
        .environment("helpers.single_agent:TeamOfOne", env_config={"task": task})
        .env_runners(num_envs_per_env_runner=ENVS, rollout_fragment_length=STEPS)
        .training(
            num_epochs=EPOCHS,
            minibatch_size=MINIBATCH,
            state="observation",
            hidden_sizes=HIDDEN,
            activation="tanh",
            feature_norm=feature_norm,
            critic_lr=settings["lr"],
            **settings,
            **COMMON,
        )
        .reporting(metrics_num_episodes_for_smoothing=LAST_EPISODES)
        .debugging(seed=seed)
    )


def ppo(task: str, seed: int, settings: dict[str, Any]) -> Any:
    orthogonal = {"gain": 5.0 / 3.0}
    return (
        PPOConfig()
        .environment(task)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS)
        .training(
            train_batch_size_per_learner=ENVS * STEPS,
            minibatch_size=MINIBATCH,
            num_epochs=EPOCHS,
            use_kl_loss=False,
            vf_loss_coeff=1.0,
            vf_clip_param=float("inf"),
            grad_clip_by="global_norm",
            **settings,
            **COMMON,
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=HIDDEN,
                fcnet_activation="tanh",
                fcnet_use_layernorm=True,
                fcnet_kernel_initializer="orthogonal_",
                fcnet_kernel_initializer_kwargs=orthogonal,
                fcnet_bias_initializer="zeros_",
                head_fcnet_kernel_initializer="orthogonal_",
                head_fcnet_kernel_initializer_kwargs={"gain": 0.01},
                head_fcnet_bias_initializer="zeros_",
                free_log_std=task == "Pendulum-v1",  # a deviation that does not depend on the state
                vf_share_layers=False,
            )
        )
        .reporting(metrics_num_episodes_for_smoothing=LAST_EPISODES)
        .debugging(seed=seed)
    )


def run(name: str, config: Any, levels: tuple[float, ...], limit: int) -> dict[float, int]:
    """Trains until the last level or the limit; level -> steps at which it was reached."""
    algorithm = config.build_algo()
    reached: dict[float, int] = {}
    steps, curve = 0, []
    while steps < limit and len(reached) < len(levels):
        result = algorithm.train()["env_runners"]
        steps = int(result["num_env_steps_sampled_lifetime"])
        mean = result.get("episode_return_mean", float("nan"))
        curve.append(f"{steps}:{mean:.0f}")
        for level in levels:
            if mean >= level:
                reached.setdefault(level, steps)
    algorithm.stop()
    print(f"{name:6} seed {config.seed}  {' '.join(curve)}", flush=True)
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--task", choices=tuple(TASKS), default="CartPole-v1")
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--steps", type=int, help="of the environment, after which a run ends")
    parser.add_argument("--feature-norm", action="store_true")
    arguments = parser.parse_args()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    levels, limit, settings = TASKS[arguments.task]
    limit = arguments.steps or limit
    found: dict[str, list[dict[float, int]]] = {"MAPPO": [], "PPO": []}
    for seed in arguments.seeds:
        own = mappo(arguments.task, seed, settings, arguments.feature_norm)
        found["MAPPO"].append(run("MAPPO", own, levels, limit))
        found["PPO"].append(run("PPO", ppo(arguments.task, seed, settings), levels, limit))
    print(f"{arguments.task}: steps to reach a return, mean over seeds that did")
    for level in levels:
        words, means = [], []
        for name, runs in found.items():
            steps = [one[level] for one in runs if level in one]
            means.append(statistics.mean(steps) if steps else float("nan"))
            words.append(f"{name} {means[-1]:,.0f} ({len(steps)} of {len(runs)} seeds)")
        print(f"{level:7.0f}  {', '.join(words)}, ratio {means[0] / means[1]:.2f}")


if __name__ == "__main__":
    main()
