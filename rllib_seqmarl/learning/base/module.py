"""The RLModule that all teams share, and what is read from the spaces of an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor
from typing_extensions import Self

from rllib_seqmarl import registry
from rllib_seqmarl.envs.core.contract import MixedActions
from rllib_seqmarl.envs.core.observation_space import ObservationSpace
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.layout import Layout
from rllib_seqmarl.learning.base.explanation import (
    NO_ATTENTION,
    NO_ORDER,
    NO_VALUES,
    Explanation,
)
from rllib_seqmarl.nets.acting.base import TeamActor, TeamInputs
from rllib_seqmarl.nets.acting.build import ACTORS
from rllib_seqmarl.nets.transformer.model import ActionSpec
from rllib_seqmarl.rollout.rollout_batch import (
    ACTIONS,
    IS_FIRST,
    LOG_PROB,
    OBS,
    ORDER,
    ORDER_LOG_PROB,
)

NO_STATE = (
    "the critic reads the environment's state, and this environment has none: set `state` in "
    "env_config where the environment offers it (`state: true`), or the config key "
    "`state: observations` for the concatenated observations of all agents."
)


def require_state(config: AlgorithmConfig) -> None:
    """Refuses a config whose critic reads a state that the environment is not asked to give.

    Of the user's own environments only their spaces tell, when the module is built.

    Raises:
        UserError: says what to set.
    """
    stateless = config.env_config.get("state") in (None, False, "none")
    if config.state.startswith("environment") and config.env in registry.ENVIRONMENTS and stateless:
        raise UserError(NO_STATE)


def action_spec(space: spaces.Space[Any]) -> ActionSpec:
    """What one agent may do, from the action space of one environment.

    Raises:
        UserError: neither ``MultiDiscrete([A] * N)``, ``Box [N, A]`` nor `MixedActions`.
    """
    if isinstance(space, MixedActions):
        return ActionSpec(space.mask_size, discrete=False, parts=space.sizes)
    if isinstance(space, spaces.MultiDiscrete) and len(set(space.nvec.tolist())) == 1:
        return ActionSpec(int(space.nvec[0]), discrete=True)
    if isinstance(space, spaces.Box) and len(space.shape) == 2:
        return ActionSpec(space.shape[1], discrete=False)
    raise UserError(
        f"the action space {space} is not that of a team: it must be MultiDiscrete([A] * N), "
        "a Box of shape [N, A], or MixedActions."
    )


def observation_layout(space: spaces.Space[Any]) -> Layout:
    """What one agent's observation consists of, from the observation space of one environment.

    Raises:
        UserError: not a Dict with ``obs`` [N, D].
    """
    if isinstance(space, spaces.Dict) and OBS in space.spaces:
        obs = space[OBS]
        if isinstance(obs, ObservationSpace):
            return obs.layout
        if obs.shape is not None and len(obs.shape) == 2:
            return Layout.vector(obs.shape[1])
    raise UserError(
        f"the observation space {space} is not that of a team: it must be a Dict with "
        "'obs' of shape [N, D], 'alive' [N], and 'action_mask' [N, A] for discrete actions."
    )


def critic_obs_dim(space: spaces.Space[Any]) -> int:
    """Width D of one agent's observation for a critic that reads the numbers themselves.

    Raises:
        UserError: it is an image, or something else that is no vector.
    """
    layout = observation_layout(space)
    layout.require_flat(
        "the observation, which the critic reads as numbers side by side,",
        "Set env_config 'flatten: true' where the environment has it, or run an algorithm whose "
        "critic reads the environment's state alone (`state: environment`; LICA, SeCA, MAPPO)",
    )
    return layout.size


def team_inputs(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> TeamInputs:
    """What the networks are made for, from the spaces of one environment.

    Raises:
        UserError: spaces that are not those of a team.
    """
    layout = observation_layout(observation_space)
    return TeamInputs(
        {name: tuple(space.shape) for name, space in observation_space.spaces.items()},
        layout,
        observation_space[OBS].dtype == np.uint8,
        action_spec(action_space),
        int(action_space.shape[0]),
    )


def _differ(given: ArrayLike | Tensor, own: Tensor) -> bool:
    """Whether a value of a state, which may be a plain number, has another shape."""
    return np.shape(given) != tuple(own.shape)


class TeamModule(TeamActor, TorchRLModule, InferenceOnlyAPI):
    """What all modules of a team share: one way to act, greedily or not.

    A family derives from its actor and from this.

    Attributes:
        accepts_other_sizes: whether a parameter keeps its own value where a state has it in another
            shape, as where training goes on with another team. Otherwise that is an error.
        not_restored: names of the parameters, and buffers, that did so.
    """

    observation_space: spaces.Dict
    action_space: spaces.Space[Any]
    model_config: dict[str, Any]
    inference_only: bool
    forward_train: Callable[..., Any]
    accepts_other_sizes: bool = False
    not_restored: tuple[str, ...] = ()

    @property
    def inputs(self) -> TeamInputs:
        """What the networks are made for."""
        return team_inputs(self.observation_space, self.action_space)

    @classmethod
    def actor_settings(cls, model_config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that ``build_actor`` takes, as plain values."""
        raise NotImplementedError

    @classmethod
    def actor_description(cls, model_config: Mapping[str, Any]) -> dict[str, Any] | None:
        """From what an equal actor is built without Ray (see `nets.acting.build`).

        None where the class acts by code of its own, which no description holds.
        """
        actor = ACTORS.get(getattr(cls, "kind", ""))
        if actor is None or cls._act is not TeamModule._act:
            return None
        if (cls.act, cls.build_actor) != (actor.act, actor.build_actor):
            return None
        return {"kind": cls.kind, "settings": cls.actor_settings(model_config)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes over weights.

        Raises:
            UserError: with `accepts_other_sizes`, they are of another network.
        """
        if self.accepts_other_sizes:
            own = self.state_dict()
            others = sorted(own.keys() ^ state.keys())
            self.not_restored = tuple(
                name for name, value in own.items() if name in state and _differ(state[name], value)
            )
            # Another team changes what is read and given, another network all in between.
            if others or 2 * len(self.not_restored) > len(own):
                first = others[0] if others else self.not_restored[0]
                raise UserError(
                    f"the checkpoint is of another network, whose {first!r} is not that of this "
                    "one: set the network's settings to those of its training."
                )
            state = {k: v for k, v in state.items() if k not in self.not_restored}
        super().set_state(state)

    def train(self, mode: bool = True) -> Self:
        """Changes the mode where it differs: RLlib sets it before and after every step."""
        return self if mode == self.training else super().train(mode)

    def _forward_inference(
        self,
        batch: dict[str, Any],
        generator: torch.Generator | None = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        return self._act(batch, deterministic=True, generator=generator)

    def _forward_exploration(
        self,
        batch: dict[str, Any],
        generator: torch.Generator | None = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        return self._act(batch, deterministic=False, generator=generator)

    def recurrent_state(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """The recurrent state of B environments, and where it must not be used.

        Returns:
            As of ``get_initial_state``, with a leading axis B; and bool [B], environments in which
            an episode begins. A batch without them begins with the initial state.
        """
        obs = batch[Columns.OBS][OBS]
        state, is_first = batch.get(Columns.STATE_IN), batch.get(IS_FIRST)
        if state is None:
            initial = self.get_initial_state()
            state = {k: v.expand(len(obs), *v.shape) for k, v in initial.items()}
        if is_first is None:
            is_first = obs.new_zeros(len(obs), dtype=torch.bool)
        return state, is_first

    def explain(self, columns: dict[str, Tensor]) -> Explanation:
        """What can be said of an episode that the policy has played.

        Args:
            columns: of its T steps, each [T, N, ...]: observations, ``actions``, and ``order``
                where it is not the index.
        """
        return Explanation(missing=[NO_ORDER, NO_VALUES, NO_ATTENTION])

    def _act(
        self,
        batch: dict[str, Any],
        deterministic: bool,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """What the runner stores: actions, log-prob, and what is handed to the next step."""
        columns = batch[Columns.OBS]
        state, is_first = self.recurrent_state(batch)
        decision = self.act(
            columns, state, is_first, deterministic=deterministic, generator=generator
        )
        out: dict[str, Any] = {ACTIONS: decision.actions, LOG_PROB: decision.log_prob}
        if decision.order is not None:
            out[ORDER] = decision.order
        if decision.order_log_prob is not None:
            out[ORDER_LOG_PROB] = decision.order_log_prob
        after = {**decision.state, **self.critic_state(columns, state, is_first)}
        return {**out, Columns.STATE_OUT: after} if after else out

    def critic_state(
        self, columns: Mapping[str, Tensor], state: Mapping[str, Tensor], is_first: Tensor
    ) -> dict[str, Tensor]:
        """The critic's recurrent state after a step, each [B, ...]; empty where it has none.

        Arguments as of ``act``.
        """
        return {}
