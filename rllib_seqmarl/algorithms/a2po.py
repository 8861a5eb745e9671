"""A2PO: Order Matters, Agent-by-agent Policy Optimization (Wang et al. 2023).

Agents are updated one after another, and each learns from advantages of the joint policy that its
predecessors have already changed. With r_j = pi_new^j / pi_old^j and the agents e_1 .. e_{k-1}
before e_k,

    rho_t = prod_{j<k} r_{e_j}(t),   c_t = min(1, rho_t)
    A_t   = delta_t + gamma lambda c_{t+1} A_{t+1}     preceding-agent off-policy correction
    l     = r_{e_k} clip(rho, 1 - eps/2, 1 + eps/2)
    L     = -mean_t [min(l A, clip(l, 1 - eps_k, 1 + eps_k) A) + c_ent H]
    eps_k = eps (w k / n + 1 - w)                       the clip grows along the order

The value learns the corrected return A + V. In the semi-greedy order the agent with the largest
mean |A| among those left and a random one take turns.

Two loops. With actors of their own, as in the paper, agents are outside: an agent (or one of
``num_agent_groups`` groups of agents) takes all its epochs, then the next. With
``share_parameters`` every step moves everybody, so epochs are outside and groups are cumulative:
the first trains, then the first two, ...; rho is then of all other agents in the loss, of all
agents, the training ones included, in the correction, both with the weights of the moment, and
there are ceil(num_epochs / num_agent_groups) rounds.

What differs from the authors' code beside `mappo`'s list:

- The correction is a backward scan over T steps; theirs builds T x T matrices, in which lambda
  counts twice (lambda^2 per step).
- The semi-greedy score is the paper's |A|; theirs is |A / V|, V in normalised units.
- With fewer groups than agents two things differ: an agent's product of ratios leaves out the
  agents of its own group, which the release takes in; and eps_k goes by the group's place in the
  order, in the release by the agent's.
- Advantages are standardised over those of all agents under the present rho; the release mixes the
  latest ones of each agent, of different rho.
- The standard deviation is HARL's and MAT's, there is no layer behind the GRU, and one running
  normalisation serves all critics.
- The clip that grows with ratios (``rp``) is left out: it goes by slots and not by the order.
- A dead agent's ratio counts as 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.actor_critic.config import ActorCriticConfig, ActorCriticSettings
from rllib_seqmarl.learning.actor_critic.learner import ActorCriticLearner
from rllib_seqmarl.learning.actor_critic.module import ActorCriticBatch, Evaluation
from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.losses import clipped_surrogate, weighted_sum
from rllib_seqmarl.settings import Doc, Ge, Gt, Le, OldName, settings, training_method

ORDERS = ("semi_greedy", "greedy", "random", "index", "reverse")


@settings
class A2POSettings(ActorCriticSettings):
    """Settings of A2PO."""

    update_order: Annotated[
        Literal["semi_greedy", "greedy", "random", "index", "reverse"],
        Doc("who is updated first; ``greedy``: by mean \\|A\\|."),
    ] = "semi_greedy"
    num_agent_groups: Annotated[
        int | None,
        Gt(0),
        OldName("num_blocks"),
        Doc("""groups of near-equal size into which the order is split, whose agents are updated
        together and have the same eps_k; null: every agent by itself."""),
    ] = None
    others_clip: Annotated[
        float, Gt(0), Doc("how far the others' product of ratios may leave 1, as a part of eps.")
    ] = 0.5
    clip_growth: Annotated[float, Ge(0), Le(1), Doc("w; 0: the same clip for all.")] = 0.5
    two_stage: Annotated[
        bool,
        Doc("""a step of the critic alone before every step of actors and critic. Its loss is not
        among the metrics of an update."""),
    ] = False
    share_parameters = False
    share_critic = False


class A2POConfig(ActorCriticConfig, A2POSettings):
    """The config of A2PO."""

    @training_method(A2POSettings)
    def training(self) -> None:
        """See `A2POSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or A2PO)

    def get_default_learner_class(self) -> type[A2POLearner]:
        """The learner of this file."""
        return A2POLearner


@dataclass(kw_only=True)
class A2POBatch(ActorCriticBatch):
    """Adds what the predecessors of the agents in the batch have changed, and the agents' clips."""

    factor: Tensor | float = 1.0  # clip(rho, 1 - eps/2, 1 + eps/2), [B, N, 1]
    clip: Tensor | float = math.inf  # eps_k of each agent, [B, N, 1]


class A2POLearner(ActorCriticLearner[A2POBatch]):
    """Agents one after another, each on advantages corrected for those before it."""

    batch_class = A2POBatch

    def build(self) -> None:
        """See `TeamLearner.build`.

        Raises:
            UserError: more groups than agents.
        """
        super().build()
        groups, agents = self.config.num_agent_groups, self.core.num_agents
        if groups is not None and groups > agents:
            raise UserError(
                f"config key 'num_agent_groups' ({groups}) must not be larger than the number of "
                f"agents ({agents})."
            )

    def corrected(self, batch: A2POBatch, rho: Tensor) -> A2POBatch:
        """The batch with advantages and returns of the policy that has moved by ``rho`` [B, 1]."""
        num_envs = batch.trajectory.rewards.shape[1]
        return self.with_advantages(batch, self.from_rows(rho.clamp(max=1.0), num_envs))

    # -- the two loops -----------------------------------------------------------------------

    def update_epochs(self, batch: A2POBatch) -> None:
        """The loop that fits how parameters are shared."""
        if self.config.share_parameters:
            self._epochs_outside(batch)
        else:
            self._agents_outside(batch)

    def _agents_outside(self, batch: A2POBatch) -> None:
        groups = self.agent_groups(batch)
        batch = batch.replace(clip=self._clips(groups, batch), metric_weight=1 / len(groups))
        rho = torch.ones_like(batch.advantages[..., :1])
        for agents in groups:
            factor = self._clipped(rho).expand_as(batch.advantages).unsqueeze(-1)
            own = self.of_agents(self.corrected(batch, rho).replace(factor=factor), agents)
            for minibatch in self.minibatches(own):
                self._step(minibatch, agents)
            rho = rho * self.log_ratio(own, agents).sum(-1, keepdim=True).exp()

    def _epochs_outside(self, batch: A2POBatch) -> None:
        count = self.config.num_agent_groups or self.core.num_agents
        rounds = math.ceil(self.config.num_epochs / count)
        batch = batch.replace(metric_weight=self.config.num_epochs / (rounds * count))
        for round_ in range(rounds):
            agents: list[int] = []
            groups = self.agent_groups(batch)
            batch = batch.replace(clip=self._clips(groups, batch))
            for group in groups:
                corrected = batch
                if round_ or agents:
                    rho = self.log_ratio(batch).sum(-1, keepdim=True).exp()
                    corrected = self.corrected(batch, rho)
                agents = [*agents, *group]
                for minibatch in self.minibatches(corrected, epochs=1):
                    own = self.log_ratio(minibatch)  # [B, N]
                    others = (own.sum(-1, keepdim=True) - own).exp()
                    minibatch = minibatch.replace(factor=self._clipped(others).unsqueeze(-1))
                    self._step(self.of_agents(minibatch, agents), agents)

    def _step(self, own: A2POBatch, agents: Sequence[int]) -> None:
        """One step of some agents and of their critic."""
        self.update_value_norm(self.core.value_norm, own.returns)
        own = self.prepare_minibatch(own)
        actor_loss = self.actor_loss(agents)
        if self.config.two_stage:
            self.gradient_step(own, lambda batch: self.value_loss(batch, agents))
        self.gradient_step(own, lambda batch: actor_loss(batch) + self.critic_loss(batch, agents))

    # -- order and clips ---------------------------------------------------------------------

    def agent_groups(self, batch: A2POBatch) -> list[list[int]]:
        """The order of updates, cut into groups."""
        order = self.update_order(batch)
        groups = torch.tensor(order).tensor_split(self.config.num_agent_groups or len(order))
        return [group.tolist() for group in groups]

    def update_order(self, batch: A2POBatch) -> list[int]:
        """The agents in the order of their updates."""
        kind, count = self.config.update_order, self.core.num_agents
        if kind in ("index", "reverse"):
            return list(range(count))[:: 1 if kind == "index" else -1]
        alive = batch.alive
        over = tuple(range(alive.ndim - 1))
        size = torch.where(alive, batch.advantages.abs(), 0.0).sum(over)
        size, number = self.sum_over_learners(torch.stack((size, alive.to(size.dtype).sum(over))))
        score = (size / number.clamp(min=1.0)).tolist()  # mean |A| of each agent
        draw = self.shared_draw().tolist()
        left = list(range(count))
        order: list[int] = []
        while left:
            greedy = kind == "greedy" or (kind == "semi_greedy" and len(order) % 2 == 0)
            agent = max(left, key=(score if greedy else draw).__getitem__)
            order.append(agent)
            left.remove(agent)
        return order

    def _clips(self, groups: list[list[int]], batch: A2POBatch) -> Tensor:
        """eps_k of every agent by the place of its group, [B, N, 1]."""
        eps, w = self.scheduled("clip_param"), self.config.clip_growth
        clip = torch.empty_like(batch.advantages).unsqueeze(-1)
        for k, agents in enumerate(groups, start=1):
            clip[..., agents, :] = eps * (w * k / len(groups) + 1.0 - w)
        return clip

    def _clipped(self, rho: Tensor) -> Tensor:
        """clip(rho, 1 - eps/2, 1 + eps/2); same shape."""
        reach = self.config.others_clip * self.scheduled("clip_param")
        return rho.clamp(1.0 - reach, 1.0 + reach)

    # -- loss --------------------------------------------------------------------------------

    def compute_loss_for_module(
        self, *, module_id: str, config: A2POConfig, batch: A2POBatch, fwd_out: Evaluation
    ) -> Tensor:
        """L of the module docstring, of the agents in ``batch``."""
        r = self.ratio(fwd_out.log_prob, batch)  # [B, n, K]
        l = r * batch.factor  # noqa: E741
        surrogate = clipped_surrogate(l, batch.advantages, batch.clip)
        policy_loss = weighted_sum(surrogate, batch.policy_weight)
        entropy = weighted_sum(fwd_out.entropy, batch.policy_weight)
        loss = policy_loss - self.scheduled("entropy_coeff") * entropy
        losses = {"policy_loss": policy_loss, "entropy": entropy, "total_loss": loss}
        self.log_policy_metrics(batch, fwd_out.log_prob, r, **losses)
        return loss


class A2PO(TeamAlgorithm):
    """Agent-by-agent policy optimisation."""

    @classmethod
    def get_default_config(cls) -> A2POConfig:
        """The builder with this algorithm's defaults."""
        return A2POConfig()
