"""The learner of per-agent advantages: values, bootstraps, normalisation and minibatch weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from rllib_seqmarl.learning.base.learner import Rows, TeamLearner
from rllib_seqmarl.nets.value_norm import ValueNorm
from rllib_seqmarl.returns import generalized_advantages
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    ALIVE,
    LOG_PROB,
    OBS,
    REWARD,
    TERMINATED,
    TRUNCATED,
    RolloutBatch,
)

#: Columns of the rows that are learned from, beside those of the rollout; all [B, N].
ADVANTAGES = "advantages"
RETURNS = "returns"
OLD_VALUES = "old_values"
TARGETS = "targets"
POLICY_WEIGHT = "policy_weight"
VALUE_WEIGHT = "value_weight"


class Trajectory(NamedTuple):
    """What advantages are made of; values are in the units of the reward."""

    rewards: Tensor  # [T, E]
    values: Tensor  # [T, E, N]
    next_values: Tensor  # [T, E, N]
    terminated: Tensor  # bool [T, E]
    truncated: Tensor  # bool [T, E]


class AdvantageLearner(TeamLearner):
    """Turns columns into rows with an advantage and a return for every agent.

    Advantages are generalised advantage estimates, standardised over all living agents. A family
    of algorithms adds where values come from, `old_values`; an algorithm its loss,
    ``compute_loss_for_module``.

    Attributes:
        clip_param: the schedule of that setting.
    """

    clip_param: Scheduler

    # -- what a family of algorithms fills in --------------------------------------------------

    @property
    @abstractmethod
    def value_norm(self) -> ValueNorm:
        """The running statistics of the returns."""

    @abstractmethod
    def old_values(self, block: RolloutBatch, columns: Rows, rows: Rows) -> tuple[Tensor, Tensor]:
        """Normalised V of each step and of what followed it, both [T, E, N].

        Args:
            block: what was rolled out.
            columns: its columns as tensors, [T, E, N, ...].
            rows: what is learned from; whatever else the values came with may be added.
        """

    # -- what it may change --------------------------------------------------------------------

    #: Columns of the rollout that learning needs.
    kept_columns: tuple[str, ...] = (OBS, ACTION_MASK, ACTIONS, LOG_PROB, ALIVE)

    def to_rows(self, column: Tensor) -> Tensor:
        """[T, E, ...] -> one entry per row: here every step of every world is one."""
        return column.flatten(0, 1)

    # -- rows ----------------------------------------------------------------------------------

    def build(self) -> None:
        """Adds the schedule of the clip range."""
        super().build()
        self.clip_param = Scheduler(self.config.clip_param, framework="torch")

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Sets the clip range for the steps taken so far."""
        super().before_gradient_based_update(timesteps=timesteps)
        self.clip_param.update(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))

    def rows(self, block: RolloutBatch) -> Rows:
        """Columns [T, E, N, ...] -> rows with advantages and returns."""
        c = {name: self.to_device(column) for name, column in block.columns.items()}
        steps = len(c[REWARD])
        rows = {k: self.to_rows(c[k][:steps]) for k in self.kept_columns if k in c}
        with torch.no_grad(), self.network_time():
            old, following = self.old_values(block, c, rows)
        trajectory = Trajectory(
            c[REWARD],
            self.value_norm.denormalize(old),
            self.value_norm.denormalize(following),
            c[TERMINATED],
            c[TRUNCATED],
        )
        rows[OLD_VALUES] = self.to_rows(old)
        valued = self.valued(rows)
        alive = rows[ALIVE] if valued is None else rows[ALIVE] & valued
        return rows | self.advantages(trajectory, alive)

    def valued(self, rows: Rows) -> Tensor | None:
        """The agents that have a value in this update, bool [B, N]; None: all.

        The others are not learned from: neither their actions nor their values have a weight.
        """
        return None

    def advantages(
        self, trajectory: Trajectory, alive: Tensor, trace: Tensor | None = None
    ) -> Rows:
        """Standardised advantages and returns of a trajectory, as columns of rows.

        Args:
            trajectory: what they are made of.
            alive: whose count in the standardisation, as a column of rows.
            trace: see `returns.generalized_advantages`.
        """
        advantages = generalized_advantages(  # [T, E, N]
            *trajectory,
            gamma=self.config.gamma,
            lambda_=self.config.lambda_,
            time_limit=self.config.time_limit,
            trace=trace,
        )
        return {
            RETURNS: self.to_rows(advantages + trajectory.values),
            ADVANTAGES: self.standardise(self.to_rows(advantages), alive),
        }

    @property
    def standardised_per_agent(self) -> bool:
        """Whether each agent's advantages are standardised by themselves."""
        return False

    def standardise(self, advantages: Tensor, alive: Tensor) -> Tensor:
        """Advantages [..., N] minus mean, by standard deviation, both over living agents."""
        counted = torch.where(alive, advantages, 0.0).double()
        over = tuple(range(alive.ndim - self.standardised_per_agent))
        sums = torch.stack(
            (counted.sum(over), counted.square().sum(over), alive.double().sum(over))
        )
        total, squares, count = self.sum_over_learners(sums)
        count = count.clamp(min=1.0)  # of an agent that nobody saw alive
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0.0).sqrt()
        return ((advantages - mean) / (std + 1e-5)).float()

    # -- minibatches -----------------------------------------------------------------------------

    def prepare_minibatch(self, rows: Rows) -> Rows:
        """Value targets and the weight of each agent's terms."""
        return self.weights(rows) | self.value_targets(rows)

    def value_targets(self, rows: Rows) -> Rows:
        """Normalised returns, after the normalisation has seen these."""
        returns, valued = rows[RETURNS], self.valued(rows)
        if valued is not None:
            returns = returns[valued]
        moments = torch.stack(
            (returns.sum(), returns.square().sum(), returns.new_tensor(float(returns.numel())))
        ).double()
        total, squares, count = self.sum_over_learners(moments)
        self.require_finite(returns=total, squared_returns=squares)
        self.value_norm.update(total / count, squares / count)
        return {TARGETS: self.value_norm.normalize(rows[RETURNS])}

    def weights(self, rows: Rows) -> Rows:
        """The weight of each agent's terms, so that their sum over all learners is a mean."""
        alive = rows[ALIVE].to(rows[RETURNS].dtype)
        ones, valued = torch.ones_like(alive), self.valued(rows)
        if valued is not None:
            alive, ones = alive * valued, ones * valued
        weights: Rows = {}
        for name, masked in (
            (POLICY_WEIGHT, self.config.use_policy_active_mask),
            (VALUE_WEIGHT, self.config.use_value_active_mask),
        ):
            weight = alive if masked else ones
            # Of a minibatch in which nobody counts, all weights are 0.
            total = self.sum_over_learners(weight.sum()).clamp(min=1.0)
            # Learners' gradients are averaged, so each divides by its share of the weight.
            weights[name] = weight / (total / self.num_shares)
        return weights
