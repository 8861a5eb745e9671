"""The learner of teams that decide in sequence: where the values of their agents come from."""

from __future__ import annotations

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from rllib_seqmarl.learning.base.advantages import RETURNS, AdvantageLearner
from rllib_seqmarl.learning.base.learner import Rows
from rllib_seqmarl.learning.sequential.module import (
    COMPLETED,
    COMPLETIONS,
    SequentialModule,
    completed_agents,
)
from rllib_seqmarl.nets.value_norm import ValueNorm
from rllib_seqmarl.nets.values.suffixes import sample_agents
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    ALIVE,
    NEIGHBOURS,
    OBS,
    ORDER,
    ORDER_LOG_PROB,
    REWARD,
    RolloutBatch,
)

#: The weight of a whole row, [B].
ROW_WEIGHT = "row_weight"


class SequentialLearner(AdvantageLearner):
    """Values of each agent come from the policy's value function (see `nets.values`)."""

    kept_columns = (*AdvantageLearner.kept_columns, ORDER, ORDER_LOG_PROB, NEIGHBOURS)

    @property
    def core(self) -> SequentialModule:
        """The module itself, without what several learners wrap around it."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def value_norm(self) -> ValueNorm:
        """See `AdvantageLearner`."""
        return self.core.value_norm

    def old_values(self, block: RolloutBatch, columns: Rows, rows: Rows) -> tuple[Tensor, Tensor]:
        """See `AdvantageLearner`; completions are kept with the rows unless made per minibatch."""
        agents, count = None, self.config.value_agents
        if count is not None:
            # One draw for all steps, because an advantage is made of one agent's values over time.
            agents = sample_agents(block.num_agents, count, self.generator).to(self.device)
            completed = torch.zeros_like(rows[ALIVE])
            completed[:, agents] = True
            rows[COMPLETED] = completed
        completions, values = self._values(rows, agents)
        if completions is not None and self.config.successors != "greedy_per_minibatch":
            rows[COMPLETIONS] = completions
        values = values.unflatten(0, columns[REWARD].shape)
        return values, self._following_values(block, columns, values, agents)

    def valued(self, rows: Rows) -> Tensor | None:
        """See `AdvantageLearner`."""
        return rows.get(COMPLETED)

    def _values(self, rows: Rows, agents: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """GreedyContinuations and normalised values [B, N] of rows, in pieces.

        ``agents``, int [I], are those whose values are wanted; None: all.

        Rows without actions are followed by none: where the value reads actions, they are sampled,
        as the next step would have been. Their order is then that of the step before.
        """
        policy = self.core.policy
        size = self.config.micro_batch_size or len(rows[OBS])
        completions: list[Tensor] = []
        values = []
        for start in range(0, len(rows[OBS]), size):
            piece = {k: v[start : start + size] for k, v in rows.items()}
            obs, mask = piece[OBS], piece.get(ACTION_MASK)
            actions, order = piece.get(ACTIONS), piece.get(ORDER)
            near = self.core.neighbours(piece)
            if actions is None and policy.value.reads_actions:
                decision = policy.act(
                    obs,
                    mask,
                    deterministic=False,
                    generator=self.generator,
                    previous=order,
                    neighbours=near,
                )
                actions, order = decision.actions, decision.order
            complete = policy.completions(obs, mask, actions, order, agents, near)
            if complete is not None:
                completions.append(complete.actions)
            values.append(policy.values(obs, actions, order, complete, near))
        return torch.cat(completions) if completions else None, torch.cat(values)

    def _following_values(
        self, block: RolloutBatch, c: Rows, values: Tensor, agents: Tensor | None
    ) -> Tensor:
        """Normalised V of what followed each step, [T, E, N].

        At a truncation, that of the final observation; after the last step, of the row T + 1.
        """
        steps, worlds = c[REWARD].shape
        tail = [{k: c[k][steps] for k in (OBS, ACTION_MASK, NEIGHBOURS) if k in c}]
        final = block.final
        if final is not None:
            tail.append({k: self.to_device(final.columns[k]) for k in tail[0]})
        if ORDER in c:
            tail[0][ORDER] = c[ORDER][steps - 1]
            if final is not None:
                tail[1][ORDER] = c[ORDER][final.step, final.world]
        rows = {k: torch.cat([one[k] for one in tail]) for k in tail[0]}
        _, tail_values = self._values(rows, agents)
        following = torch.cat((values[1:], tail_values[:worlds].unsqueeze(0)))
        if final is not None:
            following[final.step, final.world] = tail_values[worlds:]
        return following

    def prepare_minibatch(self, rows: Rows) -> Rows:
        """Adds the weight of whole rows, and completions where each minibatch has its own."""
        extra = super().prepare_minibatch(rows)
        returns = rows[RETURNS]
        rows_of_all = self.sum_over_learners(returns.new_tensor(float(len(returns))))
        extra[ROW_WEIGHT] = returns.new_ones(len(returns)) / (rows_of_all / self.num_shares)
        policy = self.core.policy
        if policy.value.needs_completions and COMPLETIONS not in rows:
            with self.network_time():
                completions = policy.completions(
                    rows[OBS],
                    rows.get(ACTION_MASK),
                    rows[ACTIONS],
                    rows.get(ORDER),
                    completed_agents(rows),
                    self.core.neighbours(rows),
                )
            assert completions is not None
            extra[COMPLETIONS] = completions.actions
        return extra
