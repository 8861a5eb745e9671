"""Where SeCA's credits point: their policy gradient beside that of the returns themselves.

    python benchmarks/seca_gradient.py --env-steps 200000 --rollouts 120

Trains SeCA as a tuned example has it, then lets policy and critic stand still and plays on. On all
of these rollouts together, the gradient of the agents' weights is computed with

- credits: A of eq. 5, from the critic alone;
- counterfactual: A of eq. 3, from the critic alone;
- corrected: A of eq. 5 and what the critic leaves unexplained (``return_correction``);
- return: y^(lambda) - f(s, pi), one number for the whole team, as MAPPO has it;
- entropy: the policies' entropy, to see which of them make policies more certain.

A gradient whose halves (every other rollout) agree has little noise; where it does not agree with
that of the returns, whose halves agree too, the critic turns it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial

import ray
import torch
from learning_curve import algorithm_of
from torch import Tensor
from torch.nn.functional import cosine_similarity

from rllib_seqmarl.algorithms.seca import (
    SeCALearner,
    counterfactual_credit,
    sequential_credit,
    unexplained_return,
)
from rllib_seqmarl.losses import weighted_sum

NAMES = ("credits", "counterfactual", "corrected", "return", "entropy")


def objectives(learner: SeCALearner, rollout: object) -> Iterator[Tensor]:
    """What is raised, a scalar for each of `NAMES`."""
    batch = learner.prepare_minibatch(learner.build_train_batch(rollout))
    forward = learner.core.forward_train(batch)
    actions, policy = batch.actions.flatten(0, 1), forward.policy.flatten(0, 1).detach()
    targets = batch.targets.flatten()
    with torch.no_grad():
        q = partial(learner.core.critic, batch.critic_state.flatten(0, 1))
        credits = sequential_credit(q, actions, policy, batch.order.flatten(0, 1))
        rest = unexplained_return(q, actions, policy, targets).unsqueeze(-1)
        team = (targets - q(policy.unsqueeze(1)).squeeze(1)).unsqueeze(-1)
    log_prob = forward.log_prob.squeeze(-1)
    for advantage in (
        credits,
        counterfactual_credit(q, actions, policy).detach(),
        credits + rest,
        team.expand_as(credits),
    ):
        yield weighted_sum(log_prob * advantage.view_as(batch.actions), batch.policy_weight)
    yield weighted_sum(forward.entropy, batch.policy_weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="?", default="tuned_examples/seca_smac_2s3z.yaml")
    parser.add_argument("--env-steps", type=int, required=True, help="trained on before")
    parser.add_argument("--rollouts", type=int, required=True, help="of what stands still")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, of the config")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.files = [options.files]
    options.settings = {**options.settings, "evaluation_interval": None}
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
    algorithm = algorithm_of(options)
    steps = 0
    while steps < options.env_steps:
        result = algorithm.train()
        steps = int(result["env_runners"]["num_env_steps_sampled_lifetime"])
    win_rate = result["env_runners"].get("win_rate", float("nan"))
    print(f"after {steps:,} env steps, exploring win rate {win_rate:.2f}", flush=True)

    learner = algorithm.learner_group._learner
    weights = list(learner.core.agent.parameters())
    found = []
    for _ in range(options.rollouts):
        (rollout,) = algorithm.env_runner.sample()
        gradients = [
            torch.autograd.grad(objective, weights, retain_graph=True)
            for objective in objectives(learner, rollout)
        ]
        found.append(torch.stack([torch.cat([g.flatten() for g in each]) for each in gradients]))
    every = torch.stack(found)  # [rollouts, NAMES, weights]
    mean, even, odd = every.mean(0), every[::2].mean(0), every[1::2].mean(0)
    returns, entropy = mean[NAMES.index("return")], mean[NAMES.index("entropy")]
    print(f"{'cosine with':16} {'its other half':>15} {'return':>8} {'entropy':>8}")
    for name, whole, one, other in zip(NAMES, mean, even, odd, strict=True):
        cosines = [cosine_similarity(a, b, 0) for a, b in ((one, other), (whole, returns))]
        cosines.append(cosine_similarity(whole, entropy, 0))
        print(f"{name:16} {cosines[0]:15.2f} {cosines[1]:8.2f} {cosines[2]:8.2f}")
    algorithm.stop()


if __name__ == "__main__":
    main()
