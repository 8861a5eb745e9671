"""The RLModule shell around `SequentialPolicy`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.learning.base.advantages import AdvantageBatch
from rllib_seqmarl.learning.base.batch import SET_LATER
from rllib_seqmarl.learning.base.explanation import Explanation
from rllib_seqmarl.learning.base.module import TeamModule
from rllib_seqmarl.learning.sequential.explanation import explain_policy
from rllib_seqmarl.nets.acting.sequential import SequentialActor
from rllib_seqmarl.nets.sequential_policy import Evaluation
from rllib_seqmarl.returns import ValueNorm
from rllib_seqmarl.rollout.rollout_batch import NEIGHBOURS


@dataclass(kw_only=True)
class SequentialBatch(AdvantageBatch):
    """Env steps."""

    order: Tensor | None = None  # in which actions are evaluated, int [B, N]; None: by slots
    drawn_order: Tensor | None = None  # in which they were taken, likewise
    order_log_prob: Tensor = SET_LATER  # where the order is learned, [B] or [B, N]
    neighbours: Tensor | None = None  # whom agents attend to, int [B, N, K]; None: all
    value_inputs: Tensor | None = None  # what `ValueFunction.prepare` returned, [B, ...]
    #: In decision order, of the agents that have a value, ascending; None: all.
    value_positions: tuple[int, ...] | None = None
    step_weight: Tensor = SET_LATER  # of terms of whole env steps, [B]

    @property
    def agent_ids(self) -> Tensor | None:
        """`value_positions`, int [I]; None: all."""
        if self.value_positions is None:
            return None
        return torch.tensor(self.value_positions, device=self.obs.device)

    def team_advantage(self) -> Tensor:
        """A_seq: the mean advantage of the agents that count, [B]; 0 where none does."""
        counts = self.policy_weight > 0
        total = torch.where(counts, self.advantages, 0.0).sum(1)
        return total / counts.sum(1).clamp(min=1)


class SequentialModule(SequentialActor, TeamModule):
    """Policy and value normalisation of a team; ``model_config`` is that of the policy.

    On rollout processes the value function and its normalisation are left out.
    """

    value_norm: ValueNorm

    def setup(self) -> None:
        """Builds the networks from the spaces of one environment."""
        settings = self.actor_settings(self.model_config)
        value = {k: v for k, v in self.model_config.items() if k in ("value", "value_settings")}
        self.build_actor(self.inputs, settings | value)
        self.value_norm = ValueNorm(self.model_config["value_norm_beta"])
        if self.inference_only:
            # RLlib removes top-level attributes only, though it names nested ones by their path.
            del self.policy.value

    @classmethod
    def actor_settings(cls, model_config: Mapping[str, Any]) -> dict[str, Any]:
        """See `TeamModule`; without a value function."""
        learners = (
            "value_norm_beta",
            "value_settings",
            # In checkpoints of version 0.1.
            "successors",
            "value_chunk_size",
            "train_in_sampled_order",
        )
        settings = {k: v for k, v in model_config.items() if k not in learners}
        return settings | {"value": None}

    def get_non_inference_attributes(self) -> list[str]:
        """What acting does not need."""
        return ["policy.value", "value_norm"]

    def explain(self, columns: dict[str, Tensor]) -> Explanation:
        """Decision order, values and attention; see `TeamModule.explain`."""
        if not self.attends_to_neighbours:
            columns = {name: x for name, x in columns.items() if name != NEIGHBOURS}
        norm = None if self.inference_only else self.value_norm
        return explain_policy(self.policy, norm, columns)

    def _forward_train(self, batch: SequentialBatch, **kwargs: Any) -> Evaluation:
        """What the policy says of a batch now."""
        return self.policy.evaluate(
            batch.obs,
            batch.action_mask,
            batch.actions,
            batch.order,
            batch.value_inputs,
            agent_ids=batch.agent_ids,
            neighbours=batch.neighbours,
            drawn_order=batch.drawn_order,
        )
