"""LICA: Learning Implicit Credit Assignment (Zhou et al., NeurIPS 2020).

Recurrent agents act simultaneously, each on its own history. There is no advantage: the gradient
of a central critic with respect to the policies' probabilities tells every agent what its share
is. In SeCA's symbols, with f_phi(s, v) for a joint vector v = [v^1 .. v^N]:

- The critic is learned at the actions u, as one-hot vectors, and read at the policies pi:
  L(phi) = (y^(lambda) - f(s, u))^2 with a target copy f_{phi-} (`learning.central_q`).
- J(theta) = mean f(s, pi^1(. | tau^1), .., pi^N(. | tau^N)) + xi H / stop_gradient(H). Its gradient
  passes through f, whose weights are constants, into all agents at once; nothing is sampled.
- f is a network whose weights hypernetworks of the state set, see
  `nets.critics.joint.HypernetworkCritic`; it is in no way monotone.

For each minibatch the critic takes its step first, then the agents.

Kept as in the authors' code where it differs from the paper: the entropy is divided by its mean
over the batch; the paper's formula, each agent's by its own, is ``entropy_ratio: sample``. xi is
0.06, which the authors' settings name for all maps but one, though they set 0.11.

Deviations, each on purpose:

- A batch is T steps of E environments, not 32 whole episodes: an episode that the rollout's end
  cuts continues in the next rollout, from the stored recurrent state.
- The target copy follows every 20,000 env steps; the authors' every 200 steps of the critic, each
  on 32 episodes, of runs of 32 million env steps.
- A truncated episode and the end of a rollout bootstrap with Q'(s, pi), for no action was chosen.
- The hypernetwork of W1 is 64 wide, as in PyMARL2; LICA's is N A E (``hypernet_dim: null``).
- Dead agents' probabilities get no gradient and their entropies are not counted, which changes
  nothing where they have one action only; ``use_policy_active_mask: false`` counts them in.
"""

from __future__ import annotations

from typing import Annotated

import torch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor

from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.central_q.config import AdaptiveEntropySettings, CentralQConfig
from rllib_seqmarl.learning.central_q.learner import CentralQLearner
from rllib_seqmarl.learning.central_q.module import (
    CentralQBatch,
    HypernetworkModule,
    RecurrentModule,
    RecurrentOutput,
)
from rllib_seqmarl.losses import adaptive_entropy, weighted_sum
from rllib_seqmarl.nets.critics.joint import fixed
from rllib_seqmarl.settings import Doc, Gt, Le, Width, settings, training_method


@settings
class LICASettings(AdaptiveEntropySettings):
    """Settings of LICA."""

    embed_dim: Annotated[Width, Doc("E, width of the critic's hidden layer.")] = 64
    hypernet_dim: Annotated[
        int | None,
        Gt(0),
        Le(16_384),
        Doc("width of the hypernetwork that makes the critic's first layer; null: N A E."),
    ] = 64


class LICAConfig(CentralQConfig, LICASettings):
    """The config of LICA."""

    @training_method(LICASettings)
    def training(self) -> None:
        """See `LICASettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or LICA)

    def get_default_learner_class(self) -> type[LICALearner]:
        """The learner of this file."""
        return LICALearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Recurrent agents and a hypernetwork critic."""
        return self.module_spec(HypernetworkModule, "embed_dim", "hypernet_dim")


#: The name of the module in checkpoints of version 0.1, of LICA and SeCA.
LICAModule = HypernetworkModule


class LICALearner(CentralQLearner[CentralQBatch, RecurrentModule]):
    """The gradient of the critic, through the probabilities, into the agents."""

    batch_class = CentralQBatch

    def compute_loss_for_module(
        self, *, module_id: str, config: LICAConfig, batch: CentralQBatch, fwd_out: RecurrentOutput
    ) -> Tensor:
        """-J, mean over steps; the critic's weights are constants."""
        policy, weight = fwd_out.policy, batch.value_weight  # [E, T, N, A], [E, T]
        alive = (batch.policy_weight > 0).unsqueeze(-1)
        policy = torch.where(alive, policy, policy.detach())
        state = batch.critic_state.flatten(0, 1)  # [E T, S]
        q = fixed(self.core.critic)(state, policy.flatten(0, 1).unsqueeze(1))  # [E T, 1]
        policy_loss = -weighted_sum(q.view_as(weight), weight)
        ratio = adaptive_entropy(fwd_out.entropy, batch.mean_entropy)  # H / stop_gradient(H)
        bonus = weighted_sum(ratio, batch.policy_weight)
        loss = policy_loss - self.scheduled("entropy_coeff") * bonus
        entropy = weighted_sum(fwd_out.entropy, batch.policy_weight)
        self.log_metrics(policy_loss=policy_loss, entropy=entropy, total_loss=loss)
        return loss


class LICA(TeamAlgorithm):
    """Learning implicit credit assignment."""

    @classmethod
    def get_default_config(cls) -> LICAConfig:
        """The builder with this algorithm's defaults."""
        return LICAConfig()
