"""MAT: Multi-Agent Reinforcement Learning is a Sequence Modeling Problem (Wen et al. 2022).

A transformer encoder turns all agents' observations into o_hat, on which a value per agent is
read; a causal decoder generates the actions one agent after another. Both are trained together
with clipped PPO on per-agent advantages:

    L = L_clip(theta) + c_v L_V(phi) - c_ent H[pi]
    r      = pi(a^m | o_hat, a^{1:m-1}) / pi_old(a^m | o_hat, a^{1:m-1})
    L_clip = -mean_{t,m} min(r A, clip(r, 1 - eps, 1 + eps) A)
    L_V    =  mean_{t,m} max(huber(R - V), huber(R - V_clipped)), normalised returns R

What differs from the authors' code (each on purpose; the first four change numbers):

- Huber loss is two-sided; theirs has no gradient for large negative errors.
- A truncated episode bootstraps from its final observation; theirs takes it for terminated.
  ``time_limit: terminate`` and ``drop`` reproduce the references.
- Minibatches are of near-equal size; theirs drop the steps that remain.
- The entropy of a continuous action is summed over its dimensions; theirs averages without masks.
- The constant state input and the modules that never got a gradient do not exist.
- Decoding keeps keys and values or runs in parallel; theirs runs N full passes. Same actions.
- Optimiser and value normalisation are part of the checkpoint.

Kept as in the code where it differs from the paper: one advantage and one value per agent (the
paper speaks of a joint advantage), the ratio of a continuous action is clipped per dimension,
dead agents are masked out of the policy loss but not of the value loss (what their StarCraft
script really does), value normalisation is updated once per minibatch with the raw returns, the
value's clip range is the policy's and in normalised units.

rMAT, MAT in random order, is ``order: random``: with ``order_granularity: step`` as the PMAT paper
has it, with ``episode`` as in the authors' code, whose environments permute the agents at every
reset (in an encoder that sees no order, that is the same). MAT-adjust of the AOAD-MAT paper is
``clip_param: 0.01``, or a schedule from 0.05 to 0.01: the paper can be read either way.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.base.learner import TeamLearner
from rllib_seqmarl.learning.sequential.config import SequentialConfig, SequentialSettings
from rllib_seqmarl.learning.sequential.module import SequentialBatch, SequentialModule
from rllib_seqmarl.losses import (
    approximate_kl,
    clipped_surrogate,
    clipped_value_loss,
    probability_ratio,
    ratio_deviation,
    weighted_sum,
)
from rllib_seqmarl.nets.sequential_policy import Evaluation
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
from rllib_seqmarl.settings import Doc, Ge, Gt, Le, Schedulable, settings, training_method

#: Columns of a rollout that are trained on.
_ROWS = (OBS, ACTION_MASK, ACTIONS, LOG_PROB, ALIVE, ORDER, ORDER_LOG_PROB, NEIGHBOURS)


@settings
class MATSettings(SequentialSettings):
    """Settings of MAT; the defaults are those of the authors' StarCraft script."""

    clip_param: Annotated[Schedulable, Gt(0), Doc("eps, of the ratio and of the value.")] = 0.05
    lambda_: Annotated[float, Ge(0), Le(1), Doc("trace decay of the advantages.")] = 0.95
    entropy_coeff: Annotated[Schedulable, Ge(0), Doc("c_ent.")] = 0.01
    vf_loss_coeff: Annotated[float, Ge(0), Doc("c_v.")] = 1.0
    huber_delta: Annotated[float, Gt(0), Doc("where the value loss becomes linear.")] = 10.0
    ratio_aggregation: Annotated[
        Literal["per_dim", "prod", "mean"],
        Doc("ratio of an action with several dimensions or parts (see `losses`)."),
    ] = "per_dim"
    lr = 5e-4
    micro_batch_size = 800
    num_epochs = 15
    grad_clip = 10.0


class MATConfig(SequentialConfig, MATSettings):
    """The config of MAT."""

    @training_method(MATSettings)
    def training(self) -> None:
        """See `MATSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or MAT)

    def get_default_learner_class(self) -> type[MATLearner]:
        """The learner of this file."""
        return MATLearner


class MATLearner(TeamLearner[SequentialBatch, SequentialModule]):
    """Clipped PPO on the advantages of each agent's own value.

    Another order, or another value, of agents that decide one after another changes one of its
    methods: `policy_objective`, `agents_to_train` or `evaluation_order`.
    """

    schedules = ("entropy_coeff", "clip_param")

    # -- values, advantages, returns -----------------------------------------------------------

    def build_train_batch(self, rollout: RolloutBatch) -> SequentialBatch:
        """Env steps [T E, N, ...] with old values V, advantages A and returns R = A + V."""
        columns = {name: self.to_device(column) for name, column in rollout.columns.items()}
        if not self.core.attends_to_neighbours:
            columns.pop(NEIGHBOURS, None)
        steps, num_envs = columns[REWARD].shape[:2]
        rows = {k: columns[k][:steps].flatten(0, 1) for k in _ROWS if k in columns}
        agent_ids = self.agents_to_train(rollout.num_agents)
        with torch.no_grad(), self.network_time():
            old_values, value_inputs = self.values(rows, agent_ids)  # [T E, N]
            last, _ = self.values(self.last_observations(rollout, columns), agent_ids)
        values = self.core.value_norm.denormalize(old_values).unflatten(0, (steps, num_envs))
        last = self.core.value_norm.denormalize(last)
        next_values = torch.cat((values[1:], last[:num_envs].unsqueeze(0)))  # [T, E, N]
        if rollout.final is not None:
            next_values[rollout.final.step, rollout.final.env] = last[num_envs:]
        advantages = generalized_advantages(
            columns[REWARD],
            values,
            next_values,
            columns[TERMINATED],
            columns[TRUNCATED],
            gamma=self.config.gamma,
            lambda_=self.config.lambda_,
            time_limit=self.config.time_limit,
        )
        returns = (advantages + values).flatten(0, 1)
        counted, value_mask, positions = rows[ALIVE], None, None
        if agent_ids is not None:
            positions = tuple(agent_ids.tolist())
            value_mask = torch.zeros_like(counted).index_fill(1, agent_ids, True)
            counted = counted & value_mask
        self.log_explained_variance(values.flatten(0, 1), returns, counted)
        drawn_order = rows.pop(ORDER, None)
        per_minibatch = self.core.policy.value.prepares_per_minibatch
        return SequentialBatch(
            **rows,
            order=self.evaluation_order(drawn_order),
            drawn_order=drawn_order,
            old_values=old_values,
            value_inputs=None if per_minibatch else value_inputs,
            value_mask=value_mask,
            value_positions=positions,
            returns=returns,
            advantages=self.standardise(advantages.flatten(0, 1), counted),
        )

    def values(
        self, rows: dict[str, Tensor], agent_ids: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Normalised V of env steps, [B, N], and what it was given (`ValueFunction.prepare`).

        Steps without actions are those that nobody has decided yet: where the value reads actions,
        they are sampled, as the next step would have been. Their order is that of the step before.
        """
        policy, generator = self.core.policy, self.generator
        size = self.config.micro_batch_size or len(rows[OBS])
        values, value_inputs = [], []
        for start in range(0, len(rows[OBS]), size):
            some = {name: column[start : start + size] for name, column in rows.items()}
            obs, mask, neighbours = some[OBS], some.get(ACTION_MASK), some.get(NEIGHBOURS)
            actions, order = some.get(ACTIONS), some.get(ORDER)
            if actions is None and policy.value.reads_actions:
                now = policy.act(
                    obs,
                    mask,
                    deterministic=False,
                    generator=generator,
                    previous=order,
                    neighbours=neighbours,
                )
                actions, order = now.actions, now.order
            order = self.evaluation_order(order)
            of = {"agent_ids": agent_ids, "neighbours": neighbours}
            prepared = policy.prepare_value(obs, mask, actions, order, **of)
            values.append(policy.values(obs, actions, order, prepared, **of))
            if prepared is not None:
                value_inputs.append(prepared)
        return torch.cat(values), policy.value.join(value_inputs) if value_inputs else None

    def last_observations(
        self, rollout: RolloutBatch, columns: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What followed the last step of each env, [E, ...], and each truncated episode, [K, ...].

        Observations from which nobody has decided, side by side.
        """
        steps, final = len(columns[REWARD]), rollout.final
        last = {k: columns[k][steps] for k in (OBS, ACTION_MASK, NEIGHBOURS) if k in columns}
        if ORDER in columns:
            last[ORDER] = columns[ORDER][steps - 1]
        if final is None:
            return last
        ends = {k: self.to_device(final.columns[k]) for k in last if k != ORDER}
        if ORDER in columns:
            ends[ORDER] = columns[ORDER][final.step, final.env]
        return {name: torch.cat((column, ends[name])) for name, column in last.items()}

    def agents_to_train(self, num_agents: int) -> Tensor | None:
        """The agents that have a value in this iteration, int [I], ascending; None: all."""
        return None

    def evaluation_order(self, order: Tensor | None) -> Tensor | None:
        """In which order actions are evaluated that were taken in ``order``: in that."""
        return order

    # -- minibatches ---------------------------------------------------------------------------

    def update_minibatch(self, minibatch: SequentialBatch) -> None:
        """One gradient step, after the value normalisation has seen the minibatch's returns."""
        returns, mask = minibatch.returns, minibatch.value_mask
        self.update_value_norm(self.core.value_norm, returns if mask is None else returns[mask])
        super().update_minibatch(minibatch)

    def prepare_minibatch(self, minibatch: SequentialBatch) -> SequentialBatch:
        """Normalised returns, and the weight of each agent's terms."""
        batch = self.with_weights(minibatch, minibatch.returns, minibatch.value_mask)
        return batch.replace(targets=self.core.value_norm.normalize(batch.returns))

    # -- loss ----------------------------------------------------------------------------------

    def loss(self, micro_batch: SequentialBatch) -> Tensor:
        """See `TeamLearner.loss`."""
        return super().loss(self.with_value_inputs(micro_batch))

    def with_value_inputs(self, batch: SequentialBatch) -> SequentialBatch:
        """A micro-batch with what its value reads, where that is made before every gradient step.

        The weights are the same for all micro-batches of a step.
        """
        if not self.core.policy.value.prepares_per_minibatch:
            return batch
        value_inputs = self.core.policy.prepare_value(
            batch.obs,
            batch.action_mask,
            batch.actions,
            batch.order,
            agent_ids=batch.agent_ids,
            neighbours=batch.neighbours,
        )
        return batch.replace(value_inputs=value_inputs)

    def compute_loss_for_module(
        self, *, module_id: str, config: MATConfig, batch: SequentialBatch, fwd_out: Evaluation
    ) -> Tensor:
        """L of the module docstring for a micro-batch."""
        eps, c_ent = self.scheduled("clip_param"), self.scheduled("entropy_coeff")
        policy_weight, value_weight = batch.policy_weight, batch.value_weight
        new, old = fwd_out.log_prob, batch.log_prob  # [B, N, K]
        dim_mask = self.core.policy.action.component_mask(batch.action_mask)
        ratio = probability_ratio(new, old, config.ratio_aggregation, dim_mask)  # r
        policy_loss = self.policy_objective(batch, fwd_out, ratio)
        value_error = clipped_value_loss(
            fwd_out.values, batch.old_values, batch.targets, eps, config.huber_delta
        )
        value_loss = weighted_sum(value_error, value_weight)
        entropy = weighted_sum(fwd_out.entropy, policy_weight)
        loss = policy_loss - c_ent * entropy + config.vf_loss_coeff * value_loss
        deviation, clipped = ratio_deviation(ratio, eps, dim_mask)
        self.log_metrics(
            policy_loss=policy_loss,
            vf_loss=value_loss,
            entropy=entropy,
            approx_kl=weighted_sum(approximate_kl(new, old), policy_weight),
            clip_fraction=weighted_sum(clipped, policy_weight),
            ratio_deviation=weighted_sum(deviation, policy_weight),
            total_loss=loss,
        )
        return loss

    def policy_objective(self, batch: SequentialBatch, now: Evaluation, ratio: Tensor) -> Tensor:
        """L_clip of the module docstring.

        Args:
            batch: a micro-batch.
            now: what the policy says of it now.
            ratio: r of the actions, [B, N, K].
        """
        surrogate = clipped_surrogate(ratio, batch.advantages, self.scheduled("clip_param"))
        return weighted_sum(surrogate, batch.policy_weight)


class MAT(TeamAlgorithm):
    """Multi-Agent Transformer."""

    @classmethod
    def get_default_config(cls) -> MATConfig:
        """The builder with this algorithm's defaults."""
        return MATConfig()
