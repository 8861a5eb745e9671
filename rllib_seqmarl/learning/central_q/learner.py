"""What algorithms with recurrent agents and a central action value share: settings and learner.

A critic's values are those of the team, [E, T], or of every agent, [E, T, N] (COMA); below,
[E, T(, N)].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor, nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.advantages import POLICY_WEIGHT, TARGETS, VALUE_WEIGHT
from rllib_seqmarl.learning.base.config import TeamConfig
from rllib_seqmarl.learning.base.learner import Rows, TeamLearner
from rllib_seqmarl.learning.central_q.module import (
    CRITIC_STATES,
    LAST_ACTIONS,
    RecurrentModule,
    require_state,
)
from rllib_seqmarl.learning.sequential.module import ENTROPY
from rllib_seqmarl.losses import weighted_sum
from rllib_seqmarl.nets.agents.recurrent import HIDDEN, PREVIOUS_ACTIONS, Unrolled, previous_actions
from rllib_seqmarl.nets.critics.contributions import Path
from rllib_seqmarl.nets.distributions import EpsilonCategorical
from rllib_seqmarl.returns import td_lambda
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


class CriticConfig(TeamConfig):
    """Settings of recurrent agents with a central critic; the defaults are those of LICA's code.

    Attributes:
        state: what the critic reads: ``environment``, its ``state`` (most environments give it
            with ``state: true`` in env_config), or ``observations``, those of all agents.
        hidden_dim: width of the agents' recurrent state.
        lr: of the agents; a number or a schedule ``[[env_step, value], ...]``.
        critic_lr: likewise, of the critic.
        critic_steps: gradient steps of the critic for each step of the agents.
        lambda_: of the critic's TD(lambda) targets.
        target_update_interval: gradient steps of the critic until its target copy follows.
        entropy_coeff: weight of the entropy; a number or a schedule.
        epsilon: share of uniformly random actions among those that the agents explore with, as in
            PyMARL; a number or a schedule. The policy gradient takes them for actions of pi, so
            with any of them it is no longer that of the policy that acted.
        minibatch_size: environment steps per gradient step. Minibatches are of whole sequences,
            all ``rollout_fragment_length`` steps of a world, so they hold one at least.
        micro_batch_size: likewise, per forward and backward pass.
        num_epochs: passes over a rollout. More than one takes steps on data of an older policy,
            for which the policy gradient is not corrected.
    """

    #: Recurrent agents here choose among discrete actions.
    continuous_actions: ClassVar[bool] = False
    #: Whether the critic has one value for the whole team, not one for each agent.
    team_value: ClassVar[bool] = True

    _CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "state": CRITIC_STATES,
        "time_limit": ("bootstrap", "terminate"),
    }
    _NUMBERS: ClassVar[set[str]] = {"hidden_dim", "critic_steps", "target_update_interval"}
    _WHOLE: ClassVar[set[str]] = TeamConfig._WHOLE | _NUMBERS
    _POSITIVE: ClassVar[set[str]] = TeamConfig._POSITIVE | _NUMBERS
    _NOT_NEGATIVE: ClassVar[set[str]] = TeamConfig._NOT_NEGATIVE | {"critic_lr"}
    _UNIT_INTERVAL: ClassVar[set[str]] = TeamConfig._UNIT_INTERVAL | {"lambda_", "epsilon"}

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class)
        self.state = "environment"
        self.hidden_dim = 64
        self.lr = 2.5e-3
        self.critic_lr = 5e-4
        self.critic_steps = 1
        self.gamma = 0.99
        self.lambda_ = 0.8
        self.target_update_interval = 200
        self.entropy_coeff = 0.06
        self.epsilon: Any = 0.0
        self.grad_clip = 10.0
        self.adam_epsilon = 1e-8
        self.num_epochs = 1

    def validate(self) -> None:
        """See `TeamConfig.validate`."""
        super().validate()
        if self.sample_ahead:
            raise UserError(
                "config key 'sample_ahead' has no meaning here: its rollouts are of an older "
                "policy, and no ratio corrects this gradient; leave it at false."
            )
        if self.team_value and self.use_value_active_mask:
            raise UserError(
                "config key 'use_value_active_mask' has no meaning here: one value is the whole "
                "team's; leave it at false."
            )
        if not isinstance(self.epsilon, int | float) and max(e for _, e in self.epsilon) > 1:
            raise UserError(f"config key 'epsilon' must lie between 0 and 1, got {self.epsilon!r}.")
        require_state(self)
        for name in ("minibatch_size", "micro_batch_size"):
            steps = getattr(self, name)
            if steps is not None and steps < self.rollout_fragment_length:
                raise UserError(
                    f"config key {name!r} ({steps}) holds no whole sequence of "
                    f"rollout_fragment_length ({self.rollout_fragment_length}) steps: raise it, "
                    "or shorten the rollouts; recurrent agents learn from whole sequences."
                )

    def module_spec(self, module_class: type[RecurrentModule], *names: str) -> RLModuleSpec:
        """``module_class`` with those settings that all such modules have, and with ``names``."""
        names = ("state", "hidden_dim", "target_update_interval", *names)
        settings = {name: getattr(self, name) for name in names}
        # The first value, which the learner follows up; None: there are no random actions.
        first = self.epsilon if isinstance(self.epsilon, int | float) else self.epsilon[0][1]
        settings["epsilon"] = None if self.epsilon == 0 else first
        return RLModuleSpec(module_class=module_class, model_config=settings)


class CriticLearner(TeamLearner):
    """For each minibatch of sequences gradient steps of the critic, then one of the agents.

    The critic learns the TD(lambda) targets of its target copy. An algorithm adds the agents' loss,
    ``compute_loss_for_module``, in which the critic must be held.
    """

    @property
    def core(self) -> RecurrentModule:
        """The module itself, without what several learners wrap around it."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """One for the agents and one for the critic, whose gradients are clipped apart."""
        core = self.module[module_id].unwrapped()
        for part, lr in (("agent", config.lr), ("critic", config.critic_lr)):
            parameters = list(getattr(core, part).parameters())
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=part,
                optimizer=self.make_optimizer(part, parameters, config),
                params=parameters,
                lr_or_lr_schedule=lr,
            )

    def make_optimizer(
        self, part: str, parameters: list[nn.Parameter], config: Any
    ) -> torch.optim.Optimizer:
        """Adam, for the ``agent`` and for the ``critic``."""
        return torch.optim.Adam(parameters, eps=config.adam_epsilon)

    def build(self) -> None:
        """See `TeamLearner.build`."""
        super().build()
        self.epsilon = Scheduler(self.config.epsilon, framework="torch")

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Sets epsilon, which travels to the runners with the weights, for the steps so far."""
        super().before_gradient_based_update(timesteps=timesteps)
        behaviour = self.core.agent.behaviour
        if isinstance(behaviour, EpsilonCategorical):
            value = self.epsilon.update(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))
            behaviour.epsilon.fill_(value)

    # -- rows --------------------------------------------------------------------------------

    def steps_per_row(self, rows: Rows) -> int:
        """T: a row is the sequence of one world."""
        return rows[ACTIONS].shape[1]

    def rows(self, block: RolloutBatch, lambda_: float | None = None) -> Rows:
        """Columns [T, E, N, ...] -> sequences [E, T, N, ...] with targets [E, T(, N)].

        Args:
            block: a rollout.
            lambda_: of the targets; None for that of the config.
        """
        c = {k: self.to_device(column).transpose(0, 1) for k, column in block.columns.items()}
        keep = (*OBSERVATION_COLUMNS, ACTIONS, IS_FIRST, LAST_ACTIONS)
        steps = c[REWARD].shape[1]
        memory = {k: self.to_device(block.memory[k]) for k in (HIDDEN, PREVIOUS_ACTIONS)}
        goes_on = ~(c[TERMINATED] | c[TRUNCATED])
        begins = torch.cat((c[IS_FIRST], ~goes_on[:, -1:]), dim=1).unsqueeze(-1)  # [E, T + 1, 1]
        last_actions = torch.cat((memory[PREVIOUS_ACTIONS].unsqueeze(1), c[ACTIONS]), dim=1)
        c[LAST_ACTIONS] = last_actions.masked_fill(begins, -1)  # [E, T + 1, N]
        rows = {k: c[k][:, :steps] for k in keep if k in c} | memory
        with torch.no_grad(), self.network_time():
            unrolled = self.core.agent.unroll(
                rows[OBS],
                previous_actions(rows[ACTIONS], rows[PREVIOUS_ACTIONS]),
                rows[HIDDEN],
                rows[IS_FIRST],
            )
            last = {k: c[k][:, steps] for k in OBSERVATION_COLUMNS if k in c}
            everywhere = torch.arange(len(last[OBS]), device=self.device)
            last_policy = self._next_policy(
                last, rows, unrolled, everywhere, torch.full_like(everywhere, steps - 1)
            )
            taken = F.one_hot(rows[ACTIONS], last_policy.shape[-1]).to(last_policy.dtype)
            # Q(s_t, u_t); at the last row pi stands for an action that was not chosen yet.
            joint = torch.cat((taken, last_policy.unsqueeze(1)), dim=1)  # [E, T + 1, N, A]
            state = self.core.state_of(c)  # [E, T + 1, S]
            following = self.values(self.core.target, state[:, 1:], joint[:, 1:].unsqueeze(2))
            following = following[:, :, 0]  # [E, T(, N)]
            if block.final is not None:
                self._bootstrap(following, block.final, rows, unrolled)
            policy = self.core.policy(unrolled.logits, rows.get(ACTION_MASK))
        targets = td_lambda(  # [T, E(, N)]
            c[REWARD].transpose(0, 1),
            following.transpose(0, 1),
            c[TERMINATED].transpose(0, 1),
            c[TRUNCATED].transpose(0, 1),
            gamma=self.config.gamma,
            lambda_=self.config.lambda_ if lambda_ is None else lambda_,
            time_limit=self.config.time_limit,
        )
        rows[TARGETS] = targets.transpose(0, 1)
        policy = torch.cat((policy, last_policy.unsqueeze(1)), dim=1)
        return rows | self.more_rows(rows, Path(state, policy, goes_on))

    def more_rows(self, rows: Rows, path: Path) -> Rows:
        """What an algorithm puts beside the rows, one entry per sequence."""
        return {}

    def _next_policy(
        self, obs: Rows, rows: Rows, unrolled: Unrolled, world: Tensor, step: Tensor
    ) -> Tensor:
        """pi [K, N, A] at observations [K, ...] that followed a step (int [K]) of a world."""
        memory = {
            HIDDEN: unrolled.hidden[world, step],
            PREVIOUS_ACTIONS: rows[ACTIONS][world, step],
        }
        logits, _ = self.core.agent.step(obs[OBS], memory, torch.zeros_like(world).bool())
        return self.core.policy(logits, obs.get(ACTION_MASK))

    def _bootstrap(
        self, following: Tensor, final: FinalObservations, rows: Rows, unrolled: Unrolled
    ) -> None:
        """Puts Q(s, pi) of truncated episodes' final states into ``following`` [E, T(, N)]."""
        obs = {k: self.to_device(column) for k, column in final.columns.items()}
        world, step = self.to_device(final.world), self.to_device(final.step)
        policy = self._next_policy(obs, rows, unrolled, world, step)
        state = self.core.state_of(obs | {LAST_ACTIONS: rows[ACTIONS][world, step]})
        following[world, step] = self.values(self.core.target, state, policy.unsqueeze(1))[:, 0]

    def values(
        self, critic: Callable[[Tensor, Tensor], Tensor], state: Tensor, joint_actions: Tensor
    ) -> Tensor:
        """A critic's values in pieces: state [..., S], joint [..., K, N, A] -> [..., K(, N)]."""
        shape = state.shape[:-1]
        states, vectors = state.flatten(0, -2), joint_actions.flatten(0, -4)
        size = self.config.micro_batch_size or len(states)
        pieces = zip(states.split(size), vectors.split(size), strict=True)
        return torch.cat([critic(s, v) for s, v in pieces]).unflatten(0, shape)

    # -- losses ------------------------------------------------------------------------------

    def prepare_minibatch(self, rows: Rows) -> Rows:
        """What losses are weighted by."""
        return self.weights(rows)

    def weights(self, rows: Rows) -> Rows:
        """The weight of each agent's terms and of each step's."""
        targets = rows[TARGETS]
        alive = rows[ALIVE].to(targets.dtype)
        config = self.config
        policy = alive if config.use_policy_active_mask else torch.ones_like(alive)
        value = alive if config.use_value_active_mask else torch.ones_like(targets)
        weights: Rows = {}
        for name, weight in ((POLICY_WEIGHT, policy), (VALUE_WEIGHT, value)):
            # Learners' gradients are averaged, so each divides by its share of the weight.
            weights[name] = weight / (self.sum_over_learners(weight.sum()) / self.num_shares)
        return weights

    def update_minibatch(self, minibatch: Rows) -> None:
        """Steps of the critic, which its target copy follows, and one of the agents."""
        minibatch = {**minibatch, **self.prepare_minibatch(minibatch)}
        for _ in range(self.config.critic_steps):
            self.critic_step(minibatch, self.critic_loss)
        self.gradient_step(minibatch, self.loss)

    def critic_step(self, minibatch: Rows, loss: Callable[[Rows], Tensor]) -> None:
        """A gradient step of the critic, which its target copy follows."""
        self.gradient_step(minibatch, loss)
        self.core.target.follow(self.core.critic)

    def taken_values(self, piece: Rows) -> Tensor:
        """Q(s, u) of the actions taken, [E, T(, N)]."""
        core = self.core
        taken = F.one_hot(piece[ACTIONS], core.agent.num_actions).to(piece[TARGETS].dtype)
        state = core.state_of(piece).flatten(0, 1)  # [E T, S]
        return core.critic(state, taken.flatten(0, 1).unsqueeze(1)).view_as(piece[TARGETS])

    def critic_loss(self, piece: Rows) -> Tensor:
        """(y - Q(s, u))^2 (SeCA, eq. 12), mean over steps, or steps and agents."""
        values = self.taken_values(piece)
        loss = weighted_sum((piece[TARGETS] - values).square(), piece[VALUE_WEIGHT])
        mean = weighted_sum(values, piece[VALUE_WEIGHT])
        steps = self.config.critic_steps
        self.log_terms(vf_loss=loss / steps, q_mean=mean / steps)
        return loss

    def policy_gradient_loss(self, batch: Rows, forward: Rows, advantage: Tensor) -> Tensor:
        """-(log pi A) and the entropy's share, mean over agents and steps.

        Args:
            batch: rows and what `prepare_minibatch` gave.
            forward: of the module.
            advantage: A, a constant, [E, T, N].
        """
        weight, entropy = batch[POLICY_WEIGHT], forward[ENTROPY]
        policy_loss = -weighted_sum(forward[LOG_PROB].squeeze(-1) * advantage, weight)
        loss = policy_loss - self.entropy_bonus(batch, entropy)
        self.log_terms(
            policy_loss=policy_loss,
            entropy=weighted_sum(entropy, weight),
            advantage_square=weighted_sum(advantage.square(), weight),
            total_loss=loss,
        )
        return loss

    def entropy_bonus(self, batch: Rows, entropy: Tensor) -> Tensor:
        """c H, mean over agents and steps; ``entropy`` is H of each agent, [E, T, N]."""
        coeff: Tensor = self.entropy_coeff.get_current_value()
        return coeff * weighted_sum(entropy, batch[POLICY_WEIGHT])
