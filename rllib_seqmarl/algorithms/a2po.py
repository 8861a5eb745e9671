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
``num_blocks`` blocks of agents) takes all its epochs, then the next. With ``share_parameters``
every step moves everybody, so epochs are outside and blocks are cumulative: the first trains, then
the first two, ...; rho is then of all other agents in the loss, of all agents, the learning ones
included, in the correction, both with the weights of the moment, and there are
ceil(num_epochs / num_blocks) rounds.

What differs from the authors' code beside `mappo`'s list:

- The correction is a backward scan over T steps; theirs builds T x T matrices, in which lambda
  counts twice (lambda^2 per step).
- The semi-greedy score is the paper's |A|; theirs is |A / V|, V in normalised units.
- The standard deviation is HARL's and MAT's, there is no layer behind the GRU, and one running
  normalisation serves all critics.
- The clip that grows with ratios (``rp``) is left out: it goes by slots and not by the order.
- A dead agent's ratio counts as 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.actor_critic.learner import ActorConfig, ActorLearner
from rllib_seqmarl.learning.base.advantages import ADVANTAGES, Trajectory
from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.base.learner import Rows
from rllib_seqmarl.losses import clipped_surrogate
from rllib_seqmarl.rollout.rollout_batch import ALIVE, LOG_PROB, RolloutBatch

#: The clipped product of the others' ratios, and eps_k: [B, N] and [B, N, 1].
FACTOR = "factor"
CLIP = "clip"

ORDERS = ("semi_greedy", "greedy", "random", "index", "reverse")


class A2POConfig(ActorConfig):
    """Settings of A2PO.

    Attributes:
        update_order: ``semi_greedy``, ``greedy`` (by mean \\|A\\|), ``random``, ``index`` or
            ``reverse``.
        num_blocks: pieces of near-equal size into which the order is cut, whose agents are updated
            together and have the same eps_k; None: every agent by itself.
        others_clip: how far the others' product of ratios may leave 1, as a part of eps.
        clip_growth: w; 0: the same clip for all.
        two_stage: a step of the critic alone before every step of actors and critic. What it
            loses is not among the figures of an update.
    """

    _CHOICES: ClassVar[dict[str, tuple[str, ...]]] = ActorConfig._CHOICES | {"update_order": ORDERS}
    _OPTIONAL: ClassVar[set[str]] = ActorConfig._OPTIONAL | {"num_blocks"}
    _WHOLE: ClassVar[set[str]] = ActorConfig._WHOLE | {"num_blocks"}
    _POSITIVE: ClassVar[set[str]] = ActorConfig._POSITIVE | {"num_blocks", "others_clip"}
    _UNIT_INTERVAL: ClassVar[set[str]] = ActorConfig._UNIT_INTERVAL | {"clip_growth"}

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class or A2PO)
        self.share_parameters = False
        self.share_critic = False
        self.update_order = "semi_greedy"
        self.num_blocks = None
        self.others_clip = 0.5
        self.clip_growth = 0.5
        self.two_stage = False

    def get_default_learner_class(self) -> type[A2POLearner]:
        """The learner of this file."""
        return A2POLearner


class A2POLearner(ActorLearner):
    """Agents one after another, each on advantages corrected for those before it."""

    _trajectory: Trajectory

    def build(self) -> None:
        """See `TeamLearner.build`.

        Raises:
            UserError: more blocks than agents.
        """
        super().build()
        blocks, agents = self.config.num_blocks, self.core.num_agents
        if blocks is not None and blocks > agents:
            raise UserError(
                f"config key 'num_blocks' ({blocks}) must not be larger than the number of agents "
                f"({agents})."
            )

    def rows(self, block: RolloutBatch) -> Rows:
        """Adds factor and clip of agents before anyone has moved."""
        rows = super().rows(block)
        eps = float(self.clip_param.get_current_value())
        factor = torch.ones_like(rows[ADVANTAGES])
        return {**rows, FACTOR: factor, CLIP: torch.full_like(factor, eps).unsqueeze(-1)}

    def advantages(
        self, trajectory: Trajectory, alive: Tensor, trace: Tensor | None = None
    ) -> Rows:
        """See `AdvantageLearner`; the trajectory is kept for later corrections."""
        self._trajectory = trajectory
        return super().advantages(trajectory, alive, trace)

    def corrected(self, rows: Rows, rho: Tensor) -> Rows:
        """Rows with advantages and returns of the policy that has moved by ``rho`` [B, 1]."""
        trace = self.from_rows(rho.clamp(max=1.0), self._trajectory.rewards.shape[1])
        return {**rows, **self.advantages(self._trajectory, rows[ALIVE], trace)}

    # -- the two loops -----------------------------------------------------------------------

    def learn(self, rows: Rows) -> None:
        """The loop that fits how parameters are shared."""
        if self.config.share_parameters:
            self._epochs_outside(rows)
        else:
            self._agents_outside(rows)

    def _agents_outside(self, rows: Rows) -> None:
        blocks = self.blocks(rows)
        self.step_share = 1 / len(blocks)
        rows = rows | self._clip_of(blocks, rows)
        rho = torch.ones_like(rows[FACTOR][..., :1])
        for agents in blocks:
            factor = self._held(rho).expand_as(rows[FACTOR])
            corrected = self.corrected(rows, rho) | {FACTOR: factor}
            own = self.of_agents(corrected, agents)
            for minibatch in self.minibatches(own):
                self._step(minibatch, agents)
            rho = rho * self.log_ratio(own, agents).sum(-1, keepdim=True).exp()

    def _epochs_outside(self, rows: Rows) -> None:
        count = self.config.num_blocks or self.core.num_agents
        rounds = math.ceil(self.config.num_epochs / count)
        self.step_share = self.config.num_epochs / (rounds * count)
        for round_ in range(rounds):
            agents: list[int] = []
            blocks = self.blocks(rows)
            rows = rows | self._clip_of(blocks, rows)
            for block in blocks:
                corrected = rows
                if round_ or agents:
                    rho = self.log_ratio(rows).sum(-1, keepdim=True).exp()
                    corrected = self.corrected(rows, rho)
                agents = [*agents, *block]
                for minibatch in self.minibatches(corrected, epochs=1):
                    own = self.log_ratio(minibatch)  # [B, N]
                    others = (own.sum(-1, keepdim=True) - own).exp()
                    minibatch = {**minibatch, FACTOR: self._held(others)}
                    self._step(self.of_agents(minibatch, agents), agents)

    def _step(self, own: Rows, agents: Sequence[int]) -> None:
        """One step of some agents and of their critic."""
        own = {**own, **self.prepare_minibatch(own)}
        actor_loss = self.actor_loss(agents)
        if self.config.two_stage:
            self.gradient_step(own, lambda piece: self.value_loss(piece, agents))
        self.gradient_step(own, lambda piece: actor_loss(piece) + self.critic_loss(piece, agents))

    # -- order and clips ---------------------------------------------------------------------

    def blocks(self, rows: Rows) -> list[list[int]]:
        """The order of updates in pieces."""
        order = self.update_order(rows)
        pieces = torch.tensor(order).tensor_split(self.config.num_blocks or len(order))
        return [piece.tolist() for piece in pieces]

    def update_order(self, rows: Rows) -> list[int]:
        """The agents in the order of their updates."""
        kind, count = self.config.update_order, self.core.num_agents
        if kind in ("index", "reverse"):
            return list(range(count))[:: 1 if kind == "index" else -1]
        alive = rows[ALIVE]
        over = tuple(range(alive.ndim - 1))
        size = torch.where(alive, rows[ADVANTAGES].abs(), 0.0).sum(over)
        size, number = self.sum_over_learners(torch.stack((size, alive.to(size.dtype).sum(over))))
        score = (size / number.clamp(min=1.0)).tolist()  # mean |A| of each agent
        draw = self.agreed_draw().tolist()
        left = list(range(count))
        order: list[int] = []
        while left:
            greedy = kind == "greedy" or (kind == "semi_greedy" and len(order) % 2 == 0)
            agent = max(left, key=(score if greedy else draw).__getitem__)
            order.append(agent)
            left.remove(agent)
        return order

    def _clip_of(self, blocks: list[list[int]], rows: Rows) -> Rows:
        """eps_k of every agent, by its block's place."""
        eps, w = float(self.clip_param.get_current_value()), self.config.clip_growth
        clip = torch.empty_like(rows[CLIP])
        for place, agents in enumerate(blocks, start=1):
            clip[..., agents, :] = eps * (w * place / len(blocks) + 1.0 - w)
        return {CLIP: clip}

    def _held(self, rho: Tensor) -> Tensor:
        """rho held near 1; same shape."""
        reach = self.config.others_clip * float(self.clip_param.get_current_value())
        return rho.clamp(1.0 - reach, 1.0 + reach)

    # -- loss --------------------------------------------------------------------------------

    def compute_loss_for_module(
        self, *, module_id: str, config: A2POConfig, batch: Rows, fwd_out: Rows
    ) -> Tensor:
        """L of the module docstring, of the agents in ``batch``."""
        ratio = self.ratio(fwd_out[LOG_PROB], batch)  # [B, n, K]
        joint = ratio * batch[FACTOR].unsqueeze(-1)
        surrogate = clipped_surrogate(joint, batch[ADVANTAGES], batch[CLIP])
        return self.regularised(surrogate, ratio, batch, fwd_out)


class A2PO(TeamAlgorithm):
    """Agent-by-agent policy optimisation."""

    @classmethod
    def get_default_config(cls) -> A2POConfig:
        """The builder with this algorithm's defaults."""
        return A2POConfig()
