"""The learner of per-agent advantages: values, bootstraps, normalisation and minibatch weights."""

from __future__ import annotations

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from rllib_seqmarl.learning.learner import Rows, TeamLearner
from rllib_seqmarl.learning.module import COMPLETIONS, SequentialModule
from rllib_seqmarl.returns import generalized_advantages
from rllib_seqmarl.rollout.block import (
    ACTION_MASK,
    ACTIONS,
    ALIVE,
    LOG_PROB,
    OBS,
    ORDER,
    ORDER_LOG_PROB,
    REWARD,
    TERMINATED,
    TRUNCATED,
    RolloutBlock,
)

#: Columns of the rows that are learned from, beside those of the rollout; all [B, N], but for the
#: weight of a whole row, [B].
ADVANTAGES = "advantages"
RETURNS = "returns"
OLD_VALUES = "old_values"
TARGETS = "targets"
POLICY_WEIGHT = "policy_weight"
VALUE_WEIGHT = "value_weight"
ROW_WEIGHT = "row_weight"


class AdvantageLearner(TeamLearner):
    """Turns columns into rows with an advantage and a return for every agent.

    The value of each agent comes from the policy's value function (see `nets.values`), its
    advantage from generalised advantage estimation, standardised over all living agents. An
    algorithm adds its loss, ``compute_loss_for_module``.
    """

    @property
    def core(self) -> SequentialModule:
        """The module itself, without what several learners wrap around it."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def rows(self, block: RolloutBlock) -> Rows:
        """Columns [T, E, N, ...] -> rows [T E, N, ...] with advantages and returns."""
        c = {name: self.to_device(column) for name, column in block.columns.items()}
        steps, worlds = c[REWARD].shape
        keep = (OBS, ACTION_MASK, ACTIONS, LOG_PROB, ORDER, ORDER_LOG_PROB, ALIVE)
        rows = {k: c[k][:steps].flatten(0, 1) for k in keep if k in c}
        with torch.no_grad(), self.network_time():
            completions, normalised = self._values(rows)
            following = self._following_values(block, c, normalised)
        if completions is not None and self.config.successors != "greedy_per_minibatch":
            rows[COMPLETIONS] = completions
        value_norm = self.core.value_norm
        values = value_norm.denormalize(normalised).unflatten(0, (steps, worlds))
        advantages = generalized_advantages(  # [T, E, N]
            c[REWARD],
            values,
            value_norm.denormalize(following),
            c[TERMINATED],
            c[TRUNCATED],
            gamma=self.config.gamma,
            lambda_=self.config.lambda_,
            time_limit=self.config.time_limit,
        )
        rows[OLD_VALUES] = normalised
        rows[RETURNS] = (advantages + values).flatten(0, 1)
        rows[ADVANTAGES] = self._standardise(advantages.flatten(0, 1), rows[ALIVE])
        return rows

    def _values(self, rows: Rows) -> tuple[Tensor | None, Tensor]:
        """Completions and normalised values [B, N] of rows, in pieces.

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
            if actions is None and policy.value.reads_actions:
                decision = policy.act(
                    obs, mask, deterministic=False, generator=self.generator, previous=order
                )
                actions, order = decision.actions, decision.order
            complete = policy.completions(obs, mask, actions, order)
            if complete is not None:
                completions.append(complete)
            values.append(policy.values(obs, actions, order, complete))
        return torch.cat(completions) if completions else None, torch.cat(values)

    def _following_values(self, block: RolloutBlock, c: Rows, values: Tensor) -> Tensor:
        """Normalised V of what followed each step, [T, E, N].

        At a truncation, that of the final observation; after the last step, of the row T + 1.
        """
        steps, worlds = c[REWARD].shape
        tail = [{k: c[k][steps] for k in (OBS, ACTION_MASK) if k in c}]
        final = block.final
        if final is not None:
            tail.append({k: self.to_device(final.columns[k]) for k in tail[0]})
        if ORDER in c:
            tail[0][ORDER] = c[ORDER][steps - 1]
            if final is not None:
                tail[1][ORDER] = c[ORDER][final.step, final.world]
        tail_values = self._values({k: torch.cat([one[k] for one in tail]) for k in tail[0]})[1]
        values = values.unflatten(0, (steps, worlds))
        following = torch.cat((values[1:], tail_values[:worlds].unsqueeze(0)))
        if final is not None:
            following[final.step, final.world] = tail_values[worlds:]
        return following

    def _standardise(self, advantages: Tensor, alive: Tensor) -> Tensor:
        """Advantages [B, N] minus mean, by standard deviation, both over living agents."""
        counted = torch.where(alive, advantages, 0.0).double()
        sums = torch.stack((counted.sum(), counted.square().sum(), alive.sum().double()))
        total, squares, count = self.sum_over_learners(sums)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0.0).sqrt()
        return ((advantages - mean) / (std + 1e-5)).float()

    def start_minibatch(self, rows: Rows) -> Rows:
        """Value targets, the weight of each agent's terms, and the weight of the whole."""
        returns, policy = rows[RETURNS], self.core.policy
        extra: Rows = {}
        moments = torch.stack(
            (returns.sum(), returns.square().sum(), returns.new_tensor(float(returns.numel())))
        ).double()
        total, squares, count = self.sum_over_learners(moments)
        self.require_finite(returns=total, squared_returns=squares)
        self.core.value_norm.update(total / count, squares / count)
        extra[TARGETS] = self.core.value_norm.normalize(returns)
        rows_of_all = count / returns.shape[1] / self.num_shares
        extra[ROW_WEIGHT] = returns.new_ones(len(returns)) / rows_of_all.to(returns.dtype)
        ones = torch.ones_like(returns)
        alive = rows[ALIVE].to(returns.dtype)
        for name, masked in (
            (POLICY_WEIGHT, self.config.use_policy_active_mask),
            (VALUE_WEIGHT, self.config.use_value_active_mask),
        ):
            weight = alive if masked else ones
            # Learners' gradients are averaged, so each divides by its share of the weight.
            whole = self.sum_over_learners(weight.sum()) / self.num_shares
            extra[name] = weight / whole
        if self.core.policy.value.needs_completions and COMPLETIONS not in rows:
            with self.network_time():
                completions = policy.completions(
                    rows[OBS], rows.get(ACTION_MASK), rows[ACTIONS], rows.get(ORDER)
                )
            assert completions is not None
            extra[COMPLETIONS] = completions
        return extra
