"""What algorithms with recurrent agents and a central action value share: their learner.

A critic's values are those of the team, [E, T], or of every agent, [E, T, N] (COMA); below,
[E, T(, N)].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor, nn

from rllib_seqmarl.learning.base.learner import Components, TeamLearner
from rllib_seqmarl.learning.central_q.config import AdaptiveEntropySettings, ReplaySettings
from rllib_seqmarl.learning.central_q.module import (
    LAST_ACTIONS,
    CentralQBatch,
    Path,
    RecurrentModule,
)
from rllib_seqmarl.learning.central_q.replay import SequenceStore
from rllib_seqmarl.losses import weighted_sum
from rllib_seqmarl.nets.agents.epsilon import EpsilonCategorical
from rllib_seqmarl.nets.agents.recurrent import HIDDEN, PREVIOUS_ACTIONS, Unrolled, previous_actions
from rllib_seqmarl.nets.critics.td_lambda import td_lambda
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    ALIVE,
    IS_FIRST,
    LOG_PROB,
    OBS,
    OBSERVATION_COLUMNS,
    REWARD,
    TERMINATED,
    TRUNCATED,
    FinalObservations,
    RolloutBatch,
)

#: Part of the state of a learner with replay.
REPLAY = "replay"

BatchT = TypeVar("BatchT", bound=CentralQBatch)
ModuleT = TypeVar("ModuleT", bound=RecurrentModule)


class CentralQLearner(TeamLearner[BatchT, ModuleT]):
    """For each minibatch of sequences gradient steps of the critic, then one of the agents.

    The critic learns the TD(lambda) targets of its target copy. An algorithm adds the agents' loss,
    ``compute_loss_for_module``, in which the critic's weights must be constants.

    ``approx_kl`` is not logged: the rollout is of the policy before the agents' only step on it,
    where the ratio is 1, and no loss here has a ratio.

    Attributes:
        batch_class: what `build_train_batch` returns.
        store: of sequences for replay, where the algorithm has ``replay_capacity``.
    """

    schedules = ("entropy_coeff", "epsilon")
    batch_class: type[BatchT]
    store: SequenceStore | None

    def build(self) -> None:
        """See `TeamLearner.build`."""
        super().build()
        replay = isinstance(self.config, ReplaySettings)
        self.store = SequenceStore(self.config.replay_capacity) if replay else None

    def configure_optimizers_for_module(
        self, module_id: str, config: AlgorithmConfig | None = None
    ) -> None:
        """One for the agents and one for the critic, whose gradients are clipped apart."""
        core = self.module[module_id].unwrapped()
        for part, lr in (("agent", self.config.lr), ("critic", self.config.critic_lr)):
            parameters = list(getattr(core, part).parameters())
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=part,
                optimizer=self.make_optimizer(part, parameters),
                params=parameters,
                lr_or_lr_schedule=lr,
            )

    def make_optimizer(self, part: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam, for the ``agent`` and for the ``critic``."""
        return torch.optim.Adam(parameters, eps=self.config.adam_epsilon)

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Sets epsilon, which reaches the runners with the weights, for the steps so far."""
        super().before_gradient_based_update(timesteps=timesteps)
        behaviour = self.core.agent.behaviour
        if isinstance(behaviour, EpsilonCategorical):
            behaviour.epsilon.fill_(self.scheduled("epsilon"))

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Updates the critic's target copy, if it is time."""
        super().after_gradient_based_update(timesteps=timesteps)
        steps = timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)
        interval = self.config.target_update_env_steps
        self.core.target.update_target(self.core.critic, steps, interval)

    # -- batch -------------------------------------------------------------------------------

    def steps_per_row(self, batch: BatchT) -> int:
        """T: a row is the sequence of one environment."""
        return batch.actions.shape[1]

    def build_train_batch(self, rollout: RolloutBatch, lambda_: float | None = None) -> BatchT:
        """Columns [T, E, N, ...] -> sequences [E, T, N, ...] with targets [E, T(, N)].

        Args:
            rollout: T steps of E environments.
            lambda_: of the targets; None for that of the config.
        """
        c = {k: self.to_device(column).transpose(0, 1) for k, column in rollout.columns.items()}
        steps = c[REWARD].shape[1]
        hidden, previous = (
            self.to_device(rollout.recurrent_state[name]) for name in (HIDDEN, PREVIOUS_ACTIONS)
        )
        not_done = ~(c[TERMINATED] | c[TRUNCATED])
        begins = torch.cat((c[IS_FIRST], ~not_done[:, -1:]), dim=1).unsqueeze(-1)  # [E, T + 1, 1]
        last_actions = torch.cat((previous.unsqueeze(1), c[ACTIONS]), dim=1)
        c[LAST_ACTIONS] = last_actions.masked_fill(begins, -1)  # [E, T + 1, N]
        kept = (OBS, ACTION_MASK, ACTIONS, LOG_PROB, ALIVE, IS_FIRST)
        with torch.no_grad(), self.network_time():
            state = self.core.state_of(c)  # [E, T + 1, S]
            batch = self.batch_class(
                **{k: c[k][:, :steps] for k in kept if k in c},
                hidden=hidden,
                previous_actions=previous,
                critic_state=state[:, :steps],
            )
            unrolled = self.core.agent.unroll(
                batch.obs,
                previous_actions(batch.actions, previous),
                hidden,
                batch.is_first,
            )
            last = {k: c[k][:, steps] for k in OBSERVATION_COLUMNS if k in c}
            everywhere = torch.arange(len(batch), device=self.device)
            last_policy = self._next_policy(
                last, batch, unrolled, everywhere, torch.full_like(everywhere, steps - 1)
            )
            taken = F.one_hot(batch.actions, last_policy.shape[-1]).to(last_policy.dtype)
            # Q(s_t, u_t); at the last row pi stands for an action that was not chosen yet.
            joint = torch.cat((taken, last_policy.unsqueeze(1)), dim=1)  # [E, T + 1, N, A]
            policy = self.core.policy(unrolled.logits, batch.action_mask)
            policy = torch.cat((policy, last_policy.unsqueeze(1)), dim=1)  # [E, T + 1, N, A]
            next_values = self.next_values(state[:, 1:], joint[:, 1:], policy[:, 1:])
            final = rollout.final
            if final is not None:
                where = self.to_device(final.env), self.to_device(final.step)
                next_values[where] = self._final_values(final, batch, unrolled)
        targets = td_lambda(  # [T, E(, N)]
            c[REWARD].transpose(0, 1),
            next_values.transpose(0, 1),
            c[TERMINATED].transpose(0, 1),
            c[TRUNCATED].transpose(0, 1),
            gamma=self.config.gamma,
            lambda_=self.config.lambda_ if lambda_ is None else lambda_,
            time_limit=self.config.time_limit,
        )
        batch = batch.replace(targets=targets.transpose(0, 1))
        return self.extend_train_batch(batch, Path(state, policy, not_done))

    def extend_train_batch(self, batch: BatchT, path: Path) -> BatchT:
        """The batch with what an algorithm adds to it from the path of states and policies."""
        return batch

    def _next_policy(
        self, obs: dict[str, Tensor], batch: BatchT, unrolled: Unrolled, env: Tensor, step: Tensor
    ) -> Tensor:
        """pi [K, N, A] at observations [K, ...] that followed a step (int [K]) of an env."""
        recurrent_state = {
            HIDDEN: unrolled.hidden[env, step],
            PREVIOUS_ACTIONS: batch.actions[env, step],
        }
        logits, _ = self.core.agent.step(obs[OBS], recurrent_state, torch.zeros_like(env).bool())
        return self.core.policy(logits, obs.get(ACTION_MASK))

    def _final_values(self, final: FinalObservations, batch: BatchT, unrolled: Unrolled) -> Tensor:
        """Q(s, pi) of the final states of truncated episodes, [K(, N)]."""
        obs = {k: self.to_device(column) for k, column in final.columns.items()}
        env, step = self.to_device(final.env), self.to_device(final.step)
        policy = self._next_policy(obs, batch, unrolled, env, step)
        state = self.core.state_of(obs | {LAST_ACTIONS: batch.actions[env, step]})
        return self.next_values(state, policy, policy)

    def next_values(self, state: Tensor, joint_action: Tensor, policy: Tensor) -> Tensor:
        """Bootstrap values of the target copy.

        Args:
            state: what the critic reads, [..., S].
            joint_action: the actions that were taken there, one-hot, or pi where none was chosen
                yet, [..., N, A].
            policy: pi there, [..., N, A].

        Returns:
            [...], or [..., N] of a critic that has a value for every agent.
        """
        values = self.values(self.core.target, state, joint_action.unsqueeze(-3))
        return values.squeeze(state.ndim - 1)

    def values(
        self, critic: Callable[[Tensor, Tensor], Tensor], state: Tensor, joint_actions: Tensor
    ) -> Tensor:
        """A critic's values: state [..., S], joint [..., K, N, A] -> [..., K(, N)]."""
        shape = state.shape[:-1]
        states, vectors = state.flatten(0, -2), joint_actions.flatten(0, -4)
        size = self.config.micro_batch_size or len(states)
        parts = zip(states.split(size), vectors.split(size), strict=True)
        return torch.cat([critic(s, v) for s, v in parts]).unflatten(0, shape)

    # -- replay ------------------------------------------------------------------------------

    def on_rollout(self, rollout: RolloutBatch) -> None:
        """With replay: stores the rollout."""
        if self.store is not None:
            self.store.add(rollout)

    def replayed(self) -> RolloutBatch | None:
        """``replay_batch_size`` stored sequences; None while any learner has fewer."""
        if self.store is None:
            return None
        size: int = self.config.replay_batch_size
        fewest = -self.max_over_learners(-len(self.store))
        return self.store.draw(size, self.generator) if fewest >= size else None

    def get_state(
        self,
        components: Components = None,
        *,
        not_components: Components = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        """See `TeamLearner.get_state`; the stored sequences go with it."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self.store is not None and self._check_component(REPLAY, components, not_components):
            state[REPLAY] = self.store.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` gave, as far as it is there."""
        super().set_state(state)
        if self.store is not None and REPLAY in state:
            self.store.set_state(state[REPLAY], self.core.observation_space[OBS].shape)

    # -- losses ------------------------------------------------------------------------------

    def prepare_minibatch(self, minibatch: BatchT) -> BatchT:
        """The weights of all terms and, with ``entropy_ratio: batch``, the mean entropy."""
        minibatch = self.with_weights(minibatch, minibatch.targets)
        config = self.config
        if not isinstance(config, AdaptiveEntropySettings) or config.entropy_ratio == "sample":
            return minibatch
        with torch.no_grad(), self.network_time():
            entropies = [
                weighted_sum(self.core.forward_train(some).entropy, some.policy_weight)
                for some in self.micro_batches(minibatch)
            ]
        mean = self.sum_over_learners(torch.stack(entropies).sum()) / self.num_shares
        return minibatch.replace(mean_entropy=mean)

    def update_minibatch(self, minibatch: BatchT) -> None:
        """Steps of the critic, and one of the agents."""
        minibatch = self.prepare_minibatch(minibatch)
        for _ in range(self.config.critic_steps):
            self.gradient_step(minibatch, self.critic_loss)
        self.gradient_step(minibatch, self.loss)

    def taken_values(self, batch: BatchT) -> Tensor:
        """Q(s, u) of the actions taken, [E, T(, N)]."""
        core, targets = self.core, batch.targets
        taken = F.one_hot(batch.actions, core.agent.num_actions).to(targets.dtype)
        state = batch.critic_state.flatten(0, 1)  # [E T, S]
        values: Tensor = core.critic(state, taken.flatten(0, 1).unsqueeze(1))
        return values.view_as(targets)

    def critic_loss(self, batch: BatchT) -> Tensor:
        """(y - Q(s, u))^2 (SeCA, eq. 12), mean over steps, or steps and agents."""
        values = self.taken_values(batch)
        loss = weighted_sum((batch.targets - values).square(), batch.value_weight)
        mean = weighted_sum(values, batch.value_weight)
        steps = self.config.critic_steps
        self.log_metrics(vf_loss=loss / steps, q_mean=mean / steps)
        return loss

    def log_batch(self, batch: BatchT) -> None:
        """Logs how much of the targets the critic explains."""
        with torch.no_grad(), self.network_time():
            values = torch.cat([self.taken_values(some) for some in self.micro_batches(batch)])
        counted = torch.ones_like(values, dtype=torch.bool)
        if self.config.use_value_active_mask:
            counted = batch.alive
        self.log_explained_variance(values, batch.targets, counted)
