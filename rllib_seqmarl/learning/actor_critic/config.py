"""Settings of actors with a central critic, for MAPPO, HAPPO and A2PO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Literal

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.actor_critic.module import CRITIC_INPUTS, ActorModule
from rllib_seqmarl.learning.base.config import TeamConfig, TeamSettings
from rllib_seqmarl.learning.base.module import require_state
from rllib_seqmarl.settings import Doc, Expects, Ge, Gt, Le, MinLen, Schedulable, Width, settings


@settings
class ActorCriticSettings(TeamSettings):
    """Settings of actors with a central critic; the defaults are those of HARL's code."""

    share_parameters: Annotated[bool, Doc("one actor for all agents; false: one for each.")] = True
    share_critic: Annotated[bool, Doc("likewise, of the critic.")] = True
    state: Annotated[
        Literal["environment", "environment_and_observation", "observations", "observation"],
        Doc("""what the critic reads: ``environment``, its ``state`` (most environments give it with
        ``state: true`` in env_config), one value for the team; ``environment_and_observation``, a
        value per agent; ``observations`` of all agents, one value for the team; or the agent's own
        ``observation``: independent learners."""),
    ] = "environment"
    hidden_sizes: Annotated[
        Sequence[Width],
        MinLen(1),
        Expects("list the widths of one or more layers, as in [128, 128]"),
        Doc("widths of the hidden layers of actors and critic."),
    ] = field(default_factory=lambda: [128, 128])
    activation: Annotated[Literal["relu", "tanh"], Doc("of the hidden layers.")] = "relu"
    feature_norm: Annotated[bool, Doc("LayerNorm of the input.")] = True
    recurrent: Annotated[bool, Doc("a GRU behind the hidden layers of actors and critic.")] = False
    chunk_length: Annotated[
        int,
        Gt(0),
        Doc("""recurrent: steps of a sequence through which gradients go; divides
        ``rollout_fragment_length``. The state at its start is computed before the update."""),
    ] = 10
    lr: Annotated[Schedulable, Ge(0), Doc("step size of the actors.")] = 5e-4
    critic_lr: Annotated[Schedulable, Ge(0), Doc("step size of the critic.")] = 5e-4
    clip_param: Annotated[Schedulable, Gt(0), Doc("eps, of the ratio and of the value.")] = 0.2
    lambda_: Annotated[float, Ge(0), Le(1), Doc("trace decay of the advantages.")] = 0.95
    entropy_coeff: Annotated[Schedulable, Ge(0), Doc("weight of the entropy.")] = 0.01
    huber_delta: Annotated[float, Gt(0), Doc("where the value loss becomes linear.")] = 10.0
    ratio_aggregation: Annotated[
        Literal["per_dim", "prod", "mean"],
        Doc("""ratio of an action with several dimensions or parts (see `losses`) in the agent's own
        loss; other agents take account of the joint ratio of all of them."""),
    ] = "prod"
    value_norm_beta: Annotated[
        float, Ge(0), Le(1), Doc("weight of the running statistics of the returns.")
    ] = 0.99999
    num_epochs = 5
    micro_batch_size = 1600
    grad_clip = 10.0


class ActorCriticConfig(TeamConfig, ActorCriticSettings):
    """The config of actors with a central critic."""

    def check(self) -> None:
        """See `TeamConfig.check`."""
        super().check()
        if self.in_evaluation:
            return
        require_state(self)
        if self.recurrent:
            self._check_chunks()

    def check_reward_per_agent(self) -> None:
        """See `TeamConfig.check_reward_per_agent`.

        Raises:
            UserError: the critic has one value for the team.
        """
        if self.share_critic and not CRITIC_INPUTS[self.state]:
            raise UserError(
                f"config key 'state' {self.state!r} gives the team one value, and this environment "
                "pays every agent: set share_critic: false, or state: environment_and_observation "
                "or observation, for a value of every agent."
            )

    def _check_chunks(self) -> None:
        if self.rollout_fragment_length % self.chunk_length:
            raise UserError(
                f"config key 'chunk_length' ({self.chunk_length}) must divide "
                f"rollout_fragment_length ({self.rollout_fragment_length})."
            )
        for name in ("minibatch_size", "micro_batch_size"):
            steps = getattr(self, name)
            if steps is not None and steps < self.chunk_length:
                raise UserError(
                    f"config key {name!r} ({steps}) holds no whole chunk of chunk_length "
                    f"({self.chunk_length}) steps: raise it, or shorten the chunks."
                )

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Actors and a critic."""
        names = (
            "observation_encoder",
            "share_parameters",
            "share_critic",
            "state",
            "hidden_sizes",
            "activation",
            "feature_norm",
            "recurrent",
            "value_norm_beta",
        )
        model_config = {name: getattr(self, name) for name in names}
        model_config["learns"] = not self.in_evaluation
        return RLModuleSpec(module_class=ActorModule, model_config=model_config)
