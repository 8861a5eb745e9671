"""What MAPPO, HAPPO and A2PO share: batches and the critic's loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from rllib_seqmarl.learning.actor_critic.module import (
    ACTOR_HIDDEN,
    CRITIC_HIDDEN,
    ActorCriticBatch,
    ActorModule,
)
from rllib_seqmarl.learning.base.advantages import Trajectory
from rllib_seqmarl.learning.base.learner import TeamLearner
from rllib_seqmarl.losses import (
    approximate_kl,
    clipped_value_loss,
    probability_ratio,
    ratio_deviation,
    weighted_sum,
)
from rllib_seqmarl.nets.agents.stacked import RecurrentState
from rllib_seqmarl.returns import generalized_advantages
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    ALIVE,
    IS_FIRST,
    LOG_PROB,
    REWARD,
    TERMINATED,
    TRUNCATED,
    RolloutBatch,
)

BatchT = TypeVar("BatchT", bound=ActorCriticBatch)


class RolloutValues(NamedTuple):
    """Values of a rollout before the update, normalised."""

    values: Tensor  # [T, E, N]
    next_values: Tensor  # of the observation that followed each step, [T, E, N]
    chunk_states: dict[str, Any]  # recurrent: hidden states at the first step of each chunk


class ActorCriticLearner(TeamLearner[BatchT, ActorModule]):
    """Batches with generalised advantage estimates, and the critic's loss.

    Actors and critic have no parameter in common. An algorithm adds the loss of the actors,
    ``compute_loss_for_module``.

    Attributes:
        batch_class: what `build_train_batch` returns.
        standardised_per_agent: whether each agent's advantages are standardised by themselves.
    """

    schedules = ("entropy_coeff", "clip_param")
    batch_class: type[BatchT]
    standardised_per_agent: bool = False

    def configure_optimizers_for_module(
        self, module_id: str, config: AlgorithmConfig | None = None
    ) -> None:
        """An Adam for the actors and one for the critic, whose gradients are clipped apart."""
        core = self.module[module_id].unwrapped()
        critic = list(core.critic.parameters())
        actors = list(core.actor.parameters())
        if core.log_std is not None:
            actors += core.log_std.parameters()
        for part, parameters, lr in (
            ("actor", actors, self.config.lr),
            ("critic", critic, self.config.critic_lr),
        ):
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=part,
                optimizer=torch.optim.Adam(parameters, eps=self.config.adam_epsilon),
                params=parameters,
                lr_or_lr_schedule=lr,
            )

    # -- batch -------------------------------------------------------------------------------

    def steps_per_row(self, batch: BatchT) -> int:
        """A row is one step, or a chunk of them where agents are recurrent."""
        return self.config.chunk_length if self.config.recurrent else 1

    def to_rows(self, column: Tensor) -> Tensor:
        """[T, E, ...] -> [T E, ...], or chunks [(T / L) E, L, ...]."""
        if not self.config.recurrent:
            return column.flatten(0, 1)
        chunks = column.unflatten(0, (-1, self.config.chunk_length))  # [T / L, L, E, ...]
        return chunks.transpose(1, 2).flatten(0, 1)

    def from_rows(self, column: Tensor, num_envs: int) -> Tensor:
        """The inverse of `to_rows`: -> [T, E, ...] with E ``num_envs``."""
        column = column.unflatten(0, (-1, num_envs))
        return column.transpose(1, 2).flatten(0, 1) if self.config.recurrent else column

    def build_train_batch(self, rollout: RolloutBatch) -> BatchT:
        """See `TeamLearner`; rows with the values before the update, advantages and returns."""
        columns = {name: self.to_device(column) for name, column in rollout.columns.items()}
        steps = len(columns[REWARD])
        kept = [ACTION_MASK, ACTIONS, LOG_PROB, ALIVE]
        if self.config.recurrent:
            kept.append(IS_FIRST)
        rows: dict[str, Any] = {k: self.to_rows(columns[k][:steps]) for k in kept if k in columns}
        with torch.no_grad(), self.network_time():
            obs = self.core.actor_input(columns)[:steps]  # [T, E, N, D]
            critic_input = self.core.critic_input(columns)  # [T + 1, E, V, S]
            old = self.rollout_values(rollout, columns, obs, critic_input)
        denormalize = self.core.value_norm.denormalize
        batch = self.batch_class(
            **rows,
            **old.chunk_states,
            obs=self.to_rows(obs),
            critic_input=self.to_rows(critic_input[:steps]),
            old_values=self.to_rows(old.values),
            trajectory=Trajectory(
                columns[REWARD],
                denormalize(old.values),
                denormalize(old.next_values),
                columns[TERMINATED],
                columns[TRUNCATED],
            ),
        )
        return self.with_advantages(batch)

    def with_advantages(self, batch: BatchT, trace: Tensor | None = None) -> BatchT:
        """The batch with returns and standardised advantages.

        Args:
            batch: rows of a whole rollout, in their order.
            trace: c of `returns.generalized_advantages`, [T, E, 1].
        """
        advantages = generalized_advantages(  # [T, E, N]
            *batch.trajectory,
            gamma=self.config.gamma,
            lambda_=self.config.lambda_,
            time_limit=self.config.time_limit,
            trace=trace,
        )
        return batch.replace(
            returns=self.to_rows(advantages + batch.trajectory.values),
            advantages=self.standardise(
                self.to_rows(advantages), batch.alive, self.standardised_per_agent
            ),
        )

    def rollout_values(
        self,
        rollout: RolloutBatch,
        columns: dict[str, Tensor],
        obs: Tensor,
        critic_input: Tensor,
    ) -> RolloutValues:
        """Values of each step and of the observation that followed it.

        Args:
            rollout: T steps of E environments.
            columns: its columns as tensors.
            obs: what the actors read, [T, E, N, D].
            critic_input: what the critic reads, [T + 1, E, V, S].
        """
        core, steps, final = self.core, len(columns[REWARD]), rollout.final
        num_envs = critic_input.shape[1]
        x, tail = critic_input[:steps], critic_input[steps]
        if final is not None:
            last = core.critic_input({k: self.to_device(v) for k, v in final.columns.items()})
            tail = torch.cat((tail, last))  # [E + K, V, S]
        chunk_states: dict[str, Any] = {}
        if self.config.recurrent:
            state = {k: self.to_device(v) for k, v in rollout.recurrent_state.items()}
            is_first = columns[IS_FIRST].t()  # [E, T]
            values, hidden = core.critic_pass(
                x.transpose(0, 1), RecurrentState(state[CRITIC_HIDDEN], is_first)
            )
            acting = core.actor(
                obs.transpose(0, 1), RecurrentState(state[ACTOR_HIDDEN], is_first)
            ).hidden
            assert hidden is not None
            assert acting is not None
            for name, after in ((ACTOR_HIDDEN, acting), (CRITIC_HIDDEN, hidden)):
                chunk_states[name] = self._chunk_states(state[name], after)
            last_hidden = hidden[:, -1]
            if final is not None:
                last_hidden = torch.cat((last_hidden, hidden[final.env, final.step]))
            no_first = torch.zeros(len(tail), 1, dtype=torch.bool, device=tail.device)
            tail_values = core.critic_pass(
                tail.unsqueeze(1), RecurrentState(last_hidden, no_first)
            )[0]
            old, tail_values = values.transpose(0, 1), tail_values[:, 0]
        else:
            rows = self.to_rows(x)
            size = self.config.micro_batch_size or len(rows)
            old = torch.cat([core.critic_pass(some)[0] for some in rows.split(size)])
            old, tail_values = self.from_rows(old, num_envs), core.critic_pass(tail)[0]
        next_values = torch.cat((old[1:], tail_values[:num_envs].unsqueeze(0)))
        if final is not None:
            next_values[final.step, final.env] = tail_values[num_envs:]
        return RolloutValues(old, next_values, chunk_states)

    def _chunk_states(self, before: Tensor, after: Tensor) -> Tensor:
        """States before step 0 [E, n, H] and after each step [E, T, n, H] -> of chunks' starts."""
        length = self.config.chunk_length
        starts = torch.cat((before.unsqueeze(1), after[:, length - 1 : -1 : length]), 1)
        return starts.transpose(0, 1).flatten(0, 1)  # [(T / L) E, n, H]

    def log_batch(self, batch: BatchT) -> None:
        """Logs how much of the returns the values explain."""
        values = self.core.value_norm.denormalize(batch.old_values)
        counted = batch.alive
        if not self.config.use_value_active_mask:
            counted = torch.ones_like(counted)
        self.log_explained_variance(values, batch.returns, counted)

    def prepare_minibatch(self, minibatch: BatchT) -> BatchT:
        """Normalised value targets and the weight of each agent's terms."""
        targets = self.core.value_norm.normalize(minibatch.returns)
        return self.with_weights(minibatch.replace(targets=targets), minibatch.returns)

    def of_agents(self, batch: BatchT, agents: Sequence[int]) -> BatchT:
        """The columns of some agents, and whatever belongs to all."""
        return batch.of_agents(
            torch.as_tensor(agents, device=self.device), 2 if self.config.recurrent else 1
        )

    # -- losses ------------------------------------------------------------------------------

    def ratio(self, log_prob: Tensor, batch: BatchT) -> Tensor:
        """pi_new / pi_old of each agent, [..., n, K]."""
        mask = self.core.action.component_mask(batch.action_mask)
        return probability_ratio(log_prob, batch.log_prob, self.config.ratio_aggregation, mask)

    def log_ratio(self, batch: BatchT, agents: Sequence[int] | None = None) -> Tensor:
        """log(pi_now / pi_old) of whole actions, [..., n]; 0 for agents that are dead.

        Args:
            batch: columns of the n agents.
            agents: their slots; None for all.
        """
        with torch.no_grad(), self.network_time():
            now = [self.core.evaluate(some, agents).log_prob for some in self.micro_batches(batch)]
        return (torch.cat(now) - batch.log_prob).sum(-1).masked_fill(~batch.alive, 0.0)

    def shared_draw(self) -> Tensor:
        """A random number of each agent, [N], the same for all learners."""
        draw = torch.rand(self.core.num_agents, generator=self.generator)
        return self.sum_over_learners(draw.to(self.device))

    def actor_loss(self, agents: Sequence[int]) -> Callable[[BatchT], Tensor]:
        """The algorithm's loss of batches that hold the columns of ``agents`` alone."""

        def loss(batch: BatchT) -> Tensor:
            return self.compute_loss_for_module(
                module_id=DEFAULT_MODULE_ID,
                config=self.config,
                batch=batch,
                fwd_out=self.core.evaluate(batch, agents),
            )

        return loss

    def log_policy_metrics(
        self, batch: BatchT, log_prob: Tensor, ratio: Tensor, **losses: Tensor
    ) -> None:
        """Logs losses, and how far log-probs and ratios [..., n, K] have moved."""
        weight, has = batch.policy_weight, self.core.action.component_mask(batch.action_mask)
        deviation, clipped = ratio_deviation(ratio, self.scheduled("clip_param"), has)
        metrics = {
            **losses,
            "clip_fraction": weighted_sum(clipped, weight),
            "ratio_deviation": weighted_sum(deviation, weight),
            "approx_kl": weighted_sum(approximate_kl(log_prob, batch.log_prob), weight),
        }
        self.log_metrics(**{k: batch.metric_weight * value for k, value in metrics.items()})

    def value_loss(self, batch: BatchT, agents: Sequence[int] | None = None) -> Tensor:
        """L(phi), the larger of the Huber losses of the value and of the clipped value."""
        error = clipped_value_loss(
            self.core.values(batch, agents),
            batch.old_values,
            batch.targets,
            self.scheduled("clip_param"),
            self.config.huber_delta,
        )
        return weighted_sum(error, batch.value_weight)

    def critic_loss(self, batch: BatchT, agents: Sequence[int] | None = None) -> Tensor:
        """`value_loss`, logged."""
        loss = self.value_loss(batch, agents)
        self.log_metrics(vf_loss=batch.metric_weight * loss)
        return loss
