"""MAPPO: The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games (Yu et al. 2022).

Agents act on their own observations, simultaneously; a critic sees what they do not. Actors and
critic step together, on

    r_i      = pi(a_i | o_i) / pi_old(a_i | o_i)
    L(theta) = -mean_{t,i} [min(r_i A_i, clip(r_i, 1 - eps, 1 + eps) A_i) + c_ent H_i]
    L(phi)   =  mean_{t,i} max(huber(R - V), huber(R - V_clipped)), normalised returns R

with one actor for all agents (``share_parameters``) or one for each, feed-forward or ``recurrent``.
A_i is the generalised advantage estimate of one value for the team (``state: environment``,
``observations``) or of one per agent (``environment_and_observation``).

IPPO, independent PPO (de Witt et al. 2020), is ``state: observation``.

Networks and numbers are those of HARL's code. What differs from it, on purpose:

- A truncated episode bootstraps from its final observation; HARL leaves the step out
  (``time_limit: drop``).
- Minibatches are of near-equal size and drop no row.
- Recurrent chunks start from states that the old policy computed, also in mid-episode, as there;
  a chunk may hold the end of an episode, after which the state is empty.
- Advantages are standardised over all agents, also where parameters are not shared.
- A recurrent chunk is of one agent; HARL's of shared recurrent agents mix agents and time.
- Separate actors are one batched pass, and their gradients are clipped as one.
- A dead agent's observation is what the environment says; the agent counts in the value loss, as
  in HARL (``use_value_active_mask: true`` leaves it out, as the paper says).
"""

from __future__ import annotations

from torch import Tensor

from rllib_seqmarl.learning.actor_critic.config import ActorCriticConfig, ActorCriticSettings
from rllib_seqmarl.learning.actor_critic.learner import ActorCriticLearner
from rllib_seqmarl.learning.actor_critic.module import ActorCriticBatch, Evaluation
from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.losses import clipped_surrogate, weighted_sum
from rllib_seqmarl.settings import training_method


class MAPPOConfig(ActorCriticConfig):
    """The config of MAPPO; its settings are `ActorCriticSettings`."""

    @training_method(ActorCriticSettings)
    def training(self) -> None:
        """See `ActorCriticSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or MAPPO)

    def get_default_learner_class(self) -> type[MAPPOLearner]:
        """The learner of this file."""
        return MAPPOLearner


class MAPPOLearner(ActorCriticLearner[ActorCriticBatch]):
    """Clipped PPO, of all agents at once."""

    batch_class = ActorCriticBatch

    def update_minibatch(self, minibatch: ActorCriticBatch) -> None:
        """One step of actors and critic, which share no parameter."""
        self.update_value_norm(self.core.value_norm, minibatch.returns)
        minibatch = self.prepare_minibatch(minibatch)
        self.gradient_step(minibatch, lambda batch: self.loss(batch) + self.critic_loss(batch))

    def compute_loss_for_module(
        self, *, module_id: str, config: MAPPOConfig, batch: ActorCriticBatch, fwd_out: Evaluation
    ) -> Tensor:
        """L(theta) of the module docstring."""
        r = self.ratio(fwd_out.log_prob, batch)  # [B, N, K]
        surrogate = clipped_surrogate(r, batch.advantages, self.scheduled("clip_param"))
        policy_loss = weighted_sum(surrogate, batch.policy_weight)
        entropy = weighted_sum(fwd_out.entropy, batch.policy_weight)
        loss = policy_loss - self.scheduled("entropy_coeff") * entropy
        losses = {"policy_loss": policy_loss, "entropy": entropy, "total_loss": loss}
        self.log_policy_metrics(batch, fwd_out.log_prob, r, **losses)
        return loss


class MAPPO(TeamAlgorithm):
    """Multi-agent proximal policy optimisation."""

    @classmethod
    def get_default_config(cls) -> MAPPOConfig:
        """The builder with this algorithm's defaults."""
        return MAPPOConfig()
