"""Settings of recurrent agents with a central action value: COMA, LICA, RIIT, SCC and SeCA."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.config import TeamConfig, TeamSettings, check_setting
from rllib_seqmarl.learning.base.module import require_state
from rllib_seqmarl.learning.central_q.module import RecurrentModule
from rllib_seqmarl.settings import (
    Doc,
    Ge,
    Gt,
    Le,
    OneOf,
    Schedulable,
    Width,
    settings,
    tell_once,
)


@settings
class CentralQSettings(TeamSettings):
    """Settings of recurrent agents with a central critic; the defaults are those of LICA's code."""

    state: Annotated[
        Literal["environment", "observations"],
        Doc("""what the critic reads: ``environment``, its ``state`` (most environments give it with
        ``state: true`` in env_config), or ``observations``, those of all agents."""),
    ] = "environment"
    hidden_dim: Annotated[Width, Doc("width of the agents' recurrent state.")] = 64
    lr: Annotated[Schedulable, Ge(0), Doc("step size of the agents.")] = 2.5e-3
    critic_lr: Annotated[Schedulable, Ge(0), Doc("step size of the critic.")] = 5e-4
    critic_steps: Annotated[
        int, Gt(0), Doc("gradient steps of the critic for each step of the agents.")
    ] = 1
    lambda_: Annotated[float, Ge(0), Le(1), Doc("of the critic's TD(lambda) targets.")] = 0.8
    target_update_env_steps: Annotated[
        int,
        Gt(0),
        Doc("""env steps from one update of the critic's target copy to the next, at the ends of
        iterations; 1: of each."""),
    ] = 20_000
    target_update_interval: Annotated[
        int | None,
        Gt(0),
        Doc("""the former ``target_update_env_steps``, in gradient steps of the critic: what it is
        in env steps is computed from the batch; null: not given."""),
    ] = None
    entropy_coeff: Annotated[Schedulable, Ge(0), Doc("weight of the entropy.")] = 0.06
    epsilon: Annotated[
        Schedulable,
        Ge(0),
        Le(1),
        Doc("""share of uniformly random actions among those that the agents explore with, as in
        PyMARL. The policy gradient takes them for actions of pi, so with any of them it is no
        longer that of the policy that acted."""),
    ] = 0.0
    time_limit: Annotated[
        Literal["bootstrap", "terminate", "drop"],
        OneOf(("bootstrap", "terminate")),
        Doc("""what a truncated episode is taken for: its value is bootstrapped, or it is taken for
        terminated."""),
    ] = "bootstrap"
    minibatch_size: Annotated[
        int | None,
        Gt(0),
        Doc("""environment steps per gradient step. Minibatches are of whole sequences, all
        ``rollout_fragment_length`` steps of an env, so they hold one at least; null: all."""),
    ] = None
    num_epochs: Annotated[
        int,
        Gt(0),
        Doc("""passes over a rollout. More than one takes steps on data of an older policy, for
        which the policy gradient is not corrected."""),
    ] = 1
    grad_clip = 10.0
    adam_epsilon = 1e-8


class CentralQConfig(TeamConfig, CentralQSettings):
    """The config of recurrent agents with a central critic."""

    #: Recurrent agents here choose among discrete actions.
    continuous_actions: ClassVar[bool] = False
    #: Whether the critic has one value for the whole team, not one for each agent.
    team_value: ClassVar[bool] = True

    def check(self) -> None:
        """See `TeamConfig.check`."""
        self._count_env_steps()
        super().check()
        if self.async_sampling:
            raise UserError(
                "config key 'async_sampling' has no meaning here: its rollouts are of an older "
                "policy, and no ratio corrects this gradient; leave it at false."
            )
        if self.team_value and self.use_value_active_mask:
            raise UserError(
                "config key 'use_value_active_mask' has no meaning here: one value is the whole "
                "team's; leave it at false."
            )
        require_state(self)
        for name in ("minibatch_size", "micro_batch_size"):
            steps = getattr(self, name)
            if steps is not None and steps < self.rollout_fragment_length:
                raise UserError(
                    f"config key {name!r} ({steps}) holds no whole sequence of "
                    f"rollout_fragment_length ({self.rollout_fragment_length}) steps: raise it, "
                    "or shorten the rollouts; recurrent agents learn from whole sequences."
                )

    def critic_steps_per_minibatch(self) -> int:
        """Gradient steps of the critic for each minibatch."""
        return self.critic_steps

    def _count_env_steps(self) -> None:
        """Puts ``target_update_env_steps`` in place of a ``target_update_interval``."""
        name, interval = "target_update_interval", self.target_update_interval
        if interval is None:
            return
        interval = check_setting(self, name, interval, "config key")
        if self.target_update_env_steps != type(self)().target_update_env_steps:
            raise UserError(
                f"config keys {name!r} and 'target_update_env_steps' say the same in two ways: "
                f"leave {name!r} away."
            )
        steps = TeamConfig.steps_to_train_on(self)
        minibatches = -(-steps // self.minibatch_size) if self.minibatch_size else 1
        critic_steps = self.num_epochs * minibatches * self.critic_steps_per_minibatch()
        self.target_update_env_steps = max(1, interval * steps // critic_steps)
        self.target_update_interval = None
        tell_once(
            f"config key {name!r} ({interval} gradient steps of the critic) is called "
            f"'target_update_env_steps' now: {self.target_update_env_steps} environment steps, "
            "and at most once an iteration."
        )

    def module_spec(self, module_class: type[RecurrentModule], *names: str) -> RLModuleSpec:
        """``module_class`` with those settings that all such modules have, and with ``names``."""
        names = ("observation_encoder", "state", "hidden_dim", *names)
        model_config = {name: getattr(self, name) for name in names}
        # The first value, which the learner updates; None: there are no random actions.
        first = self.epsilon if isinstance(self.epsilon, int | float) else self.epsilon[0][1]
        model_config["epsilon"] = None if self.epsilon == 0 else first
        return RLModuleSpec(module_class=module_class, model_config=model_config)


@settings
class AdaptiveEntropySettings(CentralQSettings):
    """Settings of agents whose entropy's gradient is divided by its size."""

    entropy_coeff: Annotated[Schedulable, Ge(0), Doc("xi.")] = 0.06
    entropy_ratio: Annotated[
        Literal["batch", "sample"],
        Doc("""the entropy is divided by the mean of the ``batch`` (LICA's code), or each ``sample``
        by its own (SeCA, eq. 14)."""),
    ] = "batch"


@settings
class ReplaySettings:
    """Settings of replay."""

    replay_capacity: Annotated[
        int,
        Ge(0),
        Doc("""sequences that each learner keeps, the newest, of ``rollout_fragment_length`` steps
        of one env; 0: none, training is on fresh rollouts only. They are part of every checkpoint;
        with several learners a resumed run begins with those of the first."""),
    ] = 0
    replay_batch_size: Annotated[
        int,
        Gt(0),
        Doc("sequences that each learner draws at a time; none before there are so many."),
    ] = 64


class ReplayConfig(TeamConfig):
    """The config of algorithms with replay, whose settings include `ReplaySettings`."""

    replay_capacity: int
    replay_batch_size: int

    def steps_to_train_on(self) -> int:
        """See `TeamConfig`; stored sequences are drawn beside the fresh ones."""
        stored = self.replay_batch_size if self.replay_capacity else 0
        return max(super().steps_to_train_on(), stored * self.rollout_fragment_length)

    def check(self) -> None:
        """See `TeamConfig.check`."""
        super().check()
        if 0 < self.replay_capacity < self.replay_batch_size:
            raise UserError(
                f"replay_capacity ({self.replay_capacity}) holds no replay_batch_size "
                f"({self.replay_batch_size}) sequences: raise the one or lower the other."
            )
