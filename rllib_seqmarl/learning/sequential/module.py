"""The RLModule shell around `SequentialPolicy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.advantages import AdvantageBatch
from rllib_seqmarl.learning.base.batch import SET_LATER
from rllib_seqmarl.learning.base.explanation import Explanation
from rllib_seqmarl.learning.base.module import TeamModule, action_spec, observation_layout
from rllib_seqmarl.learning.sequential.explanation import explain_policy
from rllib_seqmarl.nets.encoders.reader import ObservationReader
from rllib_seqmarl.nets.sequential_policy import Evaluation, SequentialPolicy
from rllib_seqmarl.returns import ValueNorm
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


class SequentialModule(TeamModule):
    """Policy and value normalisation of a team; ``model_config`` is that of the policy.

    On rollout processes the value function and its normalisation are left out.
    """

    policy: SequentialPolicy
    value_norm: ValueNorm

    def setup(self) -> None:
        """Builds the networks from the spaces of one environment."""
        settings = dict(self.model_config)
        beta = settings.pop("value_norm_beta")
        self.attends_to_neighbours = settings.pop("attention", "all") == "neighbours"
        if self.attends_to_neighbours and NEIGHBOURS not in self.observation_space.spaces:
            raise UserError(
                "attention 'neighbours' needs an environment that names them, such as dubins_car "
                "with `neighbours: true` in its env_config: set that, or attention 'all'."
            )
        for learners in ("successors", "value_chunk_size", "train_in_sampled_order"):
            settings.pop(learners, None)  # in checkpoints of version 0.1
        reader = ObservationReader(
            observation_layout(self.observation_space),
            settings.pop("observation_encoder", None),  # version 0.2 had none
            settings["embed_dim"],
        )
        self.policy = SequentialPolicy(
            obs_dim=reader.output_size,
            reader=reader,
            action=action_spec(self.action_space),
            num_agents=self.action_space.shape[0],
            **settings,
        )
        self.value_norm = ValueNorm(beta)
        if self.inference_only:
            # RLlib removes top-level attributes only, though it names nested ones by their path.
            del self.policy.value

    def get_non_inference_attributes(self) -> list[str]:
        """What acting does not need."""
        return ["policy.value", "value_norm"]

    def get_initial_state(self) -> dict[str, Tensor]:
        """What the rollout hands from step to step: an order that is kept, -1 where there is none.

        Returns:
            Of one environment, ``order`` [N]; nothing where every step has an order of its own.
        """
        if not self.policy.order.kept_for_episode:
            return {}
        return {ORDER: torch.full((self.action_space.shape[0],), -1)}

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
            neighbours=obs[NEIGHBOURS] if self.attends_to_neighbours else None,
        )
        out = {ACTIONS: decision.actions, LOG_PROB: decision.log_prob}
        if decision.order is not None:
            out[ORDER] = decision.order
        if decision.order_log_prob is not None:
            out[ORDER_LOG_PROB] = decision.order_log_prob
        if self.policy.order.kept_for_episode:
            return {**out, Columns.STATE_OUT: {ORDER: decision.order}}
        return out

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
