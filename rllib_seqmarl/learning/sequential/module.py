"""The RLModule shell around `SequentialPolicy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.advantages import AdvantageBatch
from rllib_seqmarl.learning.base.batch import SET_LATER
from rllib_seqmarl.learning.base.module import ENTROPY, TeamModule, action_spec, obs_dim
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.value_norm import ValueNorm
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    IS_FIRST,
    LOG_PROB,
    NEIGHBOURS,
    OBS,
    ORDER,
    ORDER_LOG_PROB,
)

#: Columns of `SequentialModule.forward_train` beside log-prob and entropy.
VALUES = "values"
ORDER_ENTROPY = "order_entropy"
ORDER_SCORES = "order_scores"


def completed_agents(value_mask: Tensor | None) -> Tensor | None:
    """The agents that have a completion, int [I], ascending; None: all."""
    return None if value_mask is None else value_mask[0].nonzero().squeeze(-1)


@dataclass(kw_only=True)
class SequentialBatch(AdvantageBatch):
    """Rows of single steps; ``value_mask`` is the same in all of them."""

    order: Tensor | None = None  # slots, int [B, N]; None: that of the index
    order_log_prob: Tensor = SET_LATER  # where the order is learned, [B] or [B, N]
    neighbours: Tensor | None = None  # int [B, N, K]
    completions: Tensor | None = None  # greedy continuations, see `GreedyContinuations`
    row_weight: Tensor = SET_LATER  # of terms of whole rows, [B]


class SequentialModule(TeamModule):
    """Policy and value normalisation of a team; ``model_config`` is that of the policy.

    On rollout processes the value function and its normalisation are left out.
    """

    policy: SequentialPolicy
    value_norm: ValueNorm

    def setup(self) -> None:
        """Builds the networks from the spaces of one world."""
        settings = dict(self.model_config)
        beta = settings.pop("value_norm_beta")
        self.attends_to_neighbours = settings.pop("attention", "all") == "neighbours"
        if self.attends_to_neighbours and NEIGHBOURS not in self.observation_space.spaces:
            raise UserError(
                "attention 'neighbours' needs an environment that names them, such as dubins_car "
                "with `neighbours: true` in its env_config: set that, or attention 'all'."
            )
        self.train_in_sampled_order = settings.get("train_in_sampled_order", True)
        for old in ("successors", "value_chunk_size", "train_in_sampled_order"):
            settings.pop(old, None)
        self.policy = SequentialPolicy(
            obs_dim=obs_dim(self.observation_space),
            action=action_spec(self.action_space),
            num_agents=self.action_space.shape[0],
            **settings,
        )
        self.value_norm = ValueNorm(beta)
        if self.inference_only:
            # RLlib removes top-level attributes only, though it names nested ones by their path.
            del self.policy.value

    def neighbours(self, columns: Mapping[str, Tensor]) -> Tensor | None:
        """Whom agents hear, int [B, N, K]; None: all."""
        return columns[NEIGHBOURS] if self.attends_to_neighbours else None

    def get_non_inference_attributes(self) -> list[str]:
        """What acting does not need."""
        return ["policy.value", "value_norm"]

    def get_initial_state(self) -> dict[str, Tensor]:
        """What the rollout hands from step to step: an order that is kept, -1 where there is none.

        Returns:
            Of one world, ``order`` [N]; nothing where every step has an order of its own.
        """
        if not self._keeps_order:
            return {}
        return {ORDER: torch.full((self.action_space.shape[0],), -1)}

    @property
    def _keeps_order(self) -> bool:
        return self.policy.order.kept_for_episode

    def _act(
        self,
        batch: dict[str, Any],
        deterministic: bool,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        obs = batch[Columns.OBS]
        previous = batch.get(Columns.STATE_IN, {}).get(ORDER)
        if previous is not None:
            previous = previous.masked_fill(batch[IS_FIRST].unsqueeze(-1), -1)
        decision = self.policy.act(
            obs[OBS],
            obs.get(ACTION_MASK),
            deterministic=deterministic,
            generator=generator,
            previous=previous,
            neighbours=self.neighbours(obs),
        )
        out = {ACTIONS: decision.actions, LOG_PROB: decision.log_prob}
        if decision.order is not None:
            out[ORDER] = decision.order
        if decision.order_log_prob is not None:
            out[ORDER_LOG_PROB] = decision.order_log_prob
        if self._keeps_order:
            return {**out, Columns.STATE_OUT: {ORDER: decision.order}}
        return out

    def _forward_train(self, batch: SequentialBatch, **kwargs: Any) -> dict[str, Tensor]:
        """Rows of columns -> log-prob [B, N, K], entropy [B, N], normalised values [B, N].

        Where orders are learned, also what `OrderEvaluation` says of them.
        """
        evaluation = self.policy.evaluate(
            batch.obs,
            batch.action_mask,
            batch.actions,
            batch.order if self.train_in_sampled_order else None,
            batch.completions,
            agent_ids=completed_agents(batch.value_mask),
            neighbours=batch.neighbours if self.attends_to_neighbours else None,
            drawn_order=batch.order,
        )
        out = {
            LOG_PROB: evaluation.log_prob,
            ENTROPY: evaluation.entropy,
            VALUES: evaluation.values,
        }
        if evaluation.order is not None:
            out[ORDER_LOG_PROB] = evaluation.order.log_prob
            out[ORDER_ENTROPY] = evaluation.order.entropy
            if evaluation.order.scores is not None:
                out[ORDER_SCORES] = evaluation.order.scores
        return out
