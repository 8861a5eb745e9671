"""The learner of teams that decide in sequence: where the values of their agents come from."""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_seqmarl.learning.base.advantages import Trajectory
from rllib_seqmarl.learning.base.learner import TeamLearner
from rllib_seqmarl.learning.sequential.module import (
    SequentialBatch,
    SequentialModule,
    completed_agents,
)
from rllib_seqmarl.nets.values.suffixes import sample_agents
from rllib_seqmarl.returns import generalized_advantages
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    ALIVE,
    LOG_PROB,
    NEIGHBOURS,
    OBS,
    ORDER,
    ORDER_LOG_PROB,
    REWARD,
    TERMINATED,
    TRUNCATED,
    RolloutBatch,
)

_KEPT = (OBS, ACTION_MASK, ACTIONS, LOG_PROB, ALIVE, ORDER, ORDER_LOG_PROB, NEIGHBOURS)


class SequentialLearner(TeamLearner[SequentialBatch, SequentialModule]):
    """Values of each agent come from the policy's value function (see `nets.values`)."""

    schedules = ("entropy_coeff", "clip_param")

    def build_train_batch(self, rollout: RolloutBatch) -> SequentialBatch:
        """See `TeamLearner`; completions are kept with the rows unless made per minibatch."""
        c = {name: self.to_device(column) for name, column in rollout.columns.items()}
        steps = len(c[REWARD])
        rows = {k: c[k][:steps].flatten(0, 1) for k in _KEPT if k in c}
        batch = SequentialBatch(**rows)
        with torch.no_grad(), self.network_time():
            agents, count = None, self.config.value_agents
            if count is not None:
                # One draw for all steps, because an advantage is made of one agent's values.
                agents = sample_agents(rollout.num_agents, count, self.generator).to(self.device)
                batch.value_mask = torch.zeros_like(batch.alive)
                batch.value_mask[:, agents] = True
            completions, values = self._values(rows, agents)
            if self.config.successors != "greedy_per_minibatch":
                batch.completions = completions
            old = values.unflatten(0, c[REWARD].shape)
            next_values = self._next_values(rollout, c, old, agents)
        denormalize = self.core.value_norm.denormalize
        trajectory = Trajectory(
            c[REWARD],
            denormalize(old),
            denormalize(next_values),
            c[TERMINATED],
            c[TRUNCATED],
        )
        advantages = generalized_advantages(  # [T, E, N]
            *trajectory,
            gamma=self.config.gamma,
            lambda_=self.config.lambda_,
            time_limit=self.config.time_limit,
        )
        mask = batch.value_mask
        counted = batch.alive if mask is None else batch.alive & mask
        return batch.replace(
            old_values=old.flatten(0, 1),
            returns=(advantages + trajectory.values).flatten(0, 1),
            advantages=self.standardise(advantages.flatten(0, 1), counted),
        )

    def _values(
        self, rows: dict[str, Tensor], agents: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """GreedyContinuations and normalised values [B, N] of rows, by micro-batches.

        ``agents``, int [I], are those who have a value; None: all.

        Rows without actions are followed by none: where the value reads actions, they are sampled,
        as the next step would have been. Their order is then that of the step before.
        """
        policy = self.core.policy
        size = self.config.micro_batch_size or len(rows[OBS])
        completions: list[Tensor] = []
        values = []
        for start in range(0, len(rows[OBS]), size):
            some = {k: v[start : start + size] for k, v in rows.items()}
            obs, mask = some[OBS], some.get(ACTION_MASK)
            actions, order = some.get(ACTIONS), some.get(ORDER)
            near = self.core.neighbours(some)
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
            if not self.core.train_in_sampled_order:
                order = None
            of = {"agent_ids": agents, "neighbours": near}
            complete = policy.prepare_value(obs, mask, actions, order, **of)
            if complete is not None:
                completions.append(complete)
            values.append(policy.values(obs, actions, order, complete, **of))
        return torch.cat(completions) if completions else None, torch.cat(values)

    def _next_values(
        self, rollout: RolloutBatch, c: dict[str, Tensor], values: Tensor, agents: Tensor | None
    ) -> Tensor:
        """Normalised V of what followed each step, [T, E, N].

        At a truncation, that of the final observation; after the last step, of the row T + 1.
        """
        steps, num_envs = c[REWARD].shape
        tail = [{k: c[k][steps] for k in (OBS, ACTION_MASK, NEIGHBOURS) if k in c}]
        final = rollout.final
        if final is not None:
            tail.append({k: self.to_device(final.columns[k]) for k in tail[0]})
        if ORDER in c:
            tail[0][ORDER] = c[ORDER][steps - 1]
            if final is not None:
                tail[1][ORDER] = c[ORDER][final.step, final.env]
        rows = {k: torch.cat([one[k] for one in tail]) for k in tail[0]}
        _, tail_values = self._values(rows, agents)
        next_values = torch.cat((values[1:], tail_values[:num_envs].unsqueeze(0)))
        if final is not None:
            next_values[final.step, final.env] = tail_values[num_envs:]
        return next_values

    def update_minibatch(self, minibatch: SequentialBatch) -> None:
        """One step of everything, after the normalisation has seen the minibatch's returns."""
        returns, mask = minibatch.returns, minibatch.value_mask
        self.update_value_norm(self.core.value_norm, returns if mask is None else returns[mask])
        super().update_minibatch(minibatch)

    def prepare_minibatch(self, minibatch: SequentialBatch) -> SequentialBatch:
        """Normalised value targets, weights, and completions where each minibatch has its own."""
        returns, mask = minibatch.returns, minibatch.value_mask
        batch = self.with_weights(minibatch, returns, mask).replace(
            targets=self.core.value_norm.normalize(returns),
            row_weight=self.mean_weights(returns.new_ones(len(returns))),
        )
        policy = self.core.policy
        if policy.value.prepares and batch.completions is None:
            with self.network_time():
                batch.completions = policy.prepare_value(
                    batch.obs,
                    batch.action_mask,
                    batch.actions,
                    batch.order if self.core.train_in_sampled_order else None,
                    agent_ids=completed_agents(mask),
                    neighbours=batch.neighbours if self.core.attends_to_neighbours else None,
                )
        return batch
