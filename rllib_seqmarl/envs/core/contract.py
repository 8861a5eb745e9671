"""The one interface of all environments: E envs of one team of N agents, stepped as one.

Axes: ``E`` envs (``num_envs``), ``N`` agent slots (``num_agents``), ``A`` discrete actions or
continuous action dimensions, ``D`` observation width, ``S`` state width.

To write an environment, derive from :class:`TeamVectorEnv`, build the spaces with
:func:`observation_space` and :func:`discrete_actions`, :func:`continuous_actions` or
:func:`mixed_actions`, and fill in ``_reset_envs``, ``_step_envs``, ``_final_obs_and_metrics``,
``_get_envs_state`` and ``_set_envs_state``. :func:`check_team_env` then tells what is wrong with
it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rllib_seqmarl.envs.core.observation_space import ObservationSpace
from rllib_seqmarl.envs.core.old_names import TEAM_VECTOR_ENV, accept_old_members, old_attributes
from rllib_seqmarl.envs.core.returned import ReturnForm, check_spaces
from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.layout import Layout

Observation = dict[str, NDArray[Any]]

#: Names of an environment's own metrics, where they are others in results.
METRIC_NAMES: dict[str, str] = {"won": "win_rate"}

AUTORESET_MODES: dict[str, AutoresetMode] = {
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
}


class VectorStep(NamedTuple):
    """What one step of all envs gives.

    Attributes:
        obs: arrays [E, ...]; where an episode ended, the first observation of the next one.
        reward: float32 [E], one reward for the whole team; or [E, N], of an environment that pays
            every agent (``reward_per_agent``), 0 for agents that are not there.
        terminated: bool [E], the task ended the episode.
        truncated: bool [E], a limit cut the episode short; never True together with terminated.
    """

    obs: Observation
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def observation_space(
    num_agents: int,
    obs_size: int | Layout,
    num_actions: int | None = None,
    state_shape: tuple[int, ...] | None = None,
    num_neighbours: int | None = None,
    obs_dtype: type = np.float32,
) -> spaces.Dict:
    """The observation of one env: ``obs`` [N, D], ``alive`` [N] and what else is asked for.

    Args:
        num_agents: N.
        obs_size: D; or what an agent's observation consists of, which an ``observation_encoder``
            reads as what it is: ``Layout.of({"image": (32, 32, 3), "speed": (2,)})``.
        num_actions: A, adds ``action_mask`` bool [N, A]: which actions are available or, with
            continuous actions of which some agents have fewer than A, which dimensions exist.
            None for continuous actions of one size. See :func:`mixed_actions` for both at once.
        state_shape: (S,) or (N, S), adds ``state``; None for no state.
        num_neighbours: K, adds ``neighbours`` int32 [N, K]: the slots of up to K other agents
            that an agent attends to where attention is restricted to neighbours, each at most
            once, -1 where there are fewer; None for no such list.
        obs_dtype: with a `Layout`, float32; or uint8, which networks read divided by 255.
    """
    real = {"low": -np.inf, "high": np.inf, "dtype": np.float32}
    members: dict[str, spaces.Space[Any]] = {
        "obs": (
            ObservationSpace(num_agents, obs_size, obs_dtype)
            if isinstance(obs_size, Layout)
            else spaces.Box(shape=(num_agents, obs_size), **real)
        ),
        "alive": spaces.Box(0, 1, (num_agents,), np.bool_),
    }
    if num_actions is not None:
        members["action_mask"] = spaces.Box(0, 1, (num_agents, num_actions), np.bool_)
    if state_shape is not None:
        members["state"] = spaces.Box(shape=state_shape, **real)
    if num_neighbours is not None:
        shape = (num_agents, num_neighbours)
        members["neighbours"] = spaces.Box(-1, num_agents - 1, shape, np.int32)
    return spaces.Dict(members)


def discrete_actions(num_agents: int, num_actions: int) -> spaces.MultiDiscrete:
    """One of A actions per agent: int64 [N]."""
    return spaces.MultiDiscrete([num_actions] * num_agents)


def continuous_actions(num_agents: int, action_size: int) -> spaces.Box:
    """A real numbers in [-1, 1] per agent: float32 [N, A]."""
    return spaces.Box(-1.0, 1.0, (num_agents, action_size), np.float32)


class MixedActions(spaces.Box):
    """Several things at once per agent, float32 [N, P + C]: see :func:`mixed_actions`.

    Attributes:
        sizes: of the P choices, n_1 to n_P.
        num_real: C.
        mask_size: n_1 + ... + n_P + C.
    """

    def __init__(self, num_agents: int, sizes: Sequence[int], num_real: int) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        self.num_real = num_real
        self.mask_size = sum(self.sizes) + num_real
        high = np.array([*(size - 1 for size in self.sizes), *[1.0] * num_real], np.float32)
        low = np.array([*[0.0] * len(self.sizes), *[-1.0] * num_real], np.float32)
        shape = (num_agents, 1)
        super().__init__(np.tile(low, shape), np.tile(high, shape), dtype=np.float32)

    def sample(self, mask: None = None, probability: None = None) -> NDArray[Any]:
        """A random element."""
        drawn = super().sample()
        parts = len(self.sizes)
        drawn[:, :parts] = self.np_random.integers(self.sizes, size=drawn[:, :parts].shape)
        return drawn


def mixed_actions(num_agents: int, sizes: Sequence[int], num_real: int = 0) -> MixedActions:
    """P choices and C real numbers in [-1, 1] per agent: float32 [N, P + C].

    The first P entries are whole numbers, of choice p one in [0, n_p). The ``action_mask`` bool
    [N, n_1 + ... + n_P + C] says which actions of each choice are available, then which real
    numbers exist. A choice of which nothing is available is one that the agent has not: it is 0.

    Args:
        num_agents: N.
        sizes: n_1 to n_P; at least one.
        num_real: C.

    Raises:
        UserError: no choice, or one among fewer than one action.
    """
    if not sizes or min(sizes) < 1 or num_real < 0:
        raise UserError(
            f"mixed_actions: sizes must be one or more numbers of at least 1, got {list(sizes)}, "
            f"and num_real at least 0, got {num_real}; continuous_actions has real numbers alone."
        )
    return MixedActions(num_agents, sizes, num_real)


class TeamVectorEnv(VectorEnv, ABC):
    """E envs of one team of N agents behind gymnasium's vector interface.

    Keeps what every environment needs: per-episode return and length, ``infos`` at the end of
    an episode, both autoreset modes, the random generator, and ``get_state``/``set_state``.

    An agent that is dead keeps its slot: its observation is zero, ``alive`` is False and its
    action mask leaves only its no-op. All arrays handed out belong to the caller.

    An environment with scripted baselines names them in ``scripted_policies`` and fills in
    ``scripted_actions``; one that can be drawn fills in ``render_frame``, and
    ``render_final_frame`` where the end of an episode is worth a frame.

    Attributes:
        num_agents: N.
        metric_names: the environment's own per-episode metrics in ``infos["final_info"]``.
        scripted_policies: the names that ``scripted_actions`` takes.
        simulator: the name of what computes the envs, so that results are never confused.
        reward_per_agent: whether rewards are of every agent, [E, N], and not of the team, [E].
        max_episode_steps: the most steps of an episode, where the environment has such a limit.
    """

    metric_names: ClassVar[tuple[str, ...]] = ()
    #: False where a game in another process keeps its randomness through a reset.
    repeats_with_seed: ClassVar[bool] = True
    scripted_policies: ClassVar[tuple[str, ...]] = ()
    simulator: str
    max_episode_steps: int | None = None
    _frozen: NDArray[np.bool_] | None
    _last: tuple[Observation, dict[str, NDArray[np.float32]]] = ({}, {})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        accept_old_members(cls, TEAM_VECTOR_ENV)

    def __init__(
        self,
        num_envs: int,
        single_observation_space: spaces.Dict,
        single_action_space: spaces.MultiDiscrete | spaces.Box,
        autoreset: str = "same_step",
        reward_per_agent: bool = False,
    ) -> None:
        """Sets up spaces and the bookkeeping of E envs.

        Args:
            num_envs: E.
            single_observation_space: see :func:`observation_space`.
            single_action_space: :func:`discrete_actions`, :func:`continuous_actions` or
                :func:`mixed_actions`.
            autoreset: ``same_step`` (the step that ends an episode returns the first
                observation of the next one) or ``next_step`` (the step after it does, and
                ignores the env's action; what RLlib's own env runners need).
            reward_per_agent: rewards are [E, N], and an episode's return is the sum over agents.

        Raises:
            UserError: ``num_envs`` below 1, an unknown ``autoreset``, or ``next_step`` with a
                reward per agent, which RLlib's own env runners do not take; or spaces of another
                form.
        """
        if num_envs < 1:
            raise UserError(f"num_envs must be at least 1, got {num_envs}.")
        if autoreset not in AUTORESET_MODES:
            hint = nearest(autoreset, AUTORESET_MODES)
            raise UserError(f"env_config: unknown autoreset {autoreset!r}. {hint}")
        if reward_per_agent and autoreset == "next_step":
            raise UserError(
                "env_config: autoreset 'next_step' is for RLlib's own env runners, which take one "
                "reward for the team: leave it at 'same_step', or the reward at the team's."
            )
        check_spaces(self._name, single_observation_space, single_action_space)
        self.metadata = {"autoreset_mode": AUTORESET_MODES[autoreset]}
        self.num_envs = num_envs
        self.single_observation_space = single_observation_space
        self.single_action_space = single_action_space
        self.observation_space = batch_space(single_observation_space, num_envs)
        self.action_space = batch_space(single_action_space, num_envs)
        self.num_agents: int = single_action_space.shape[0]
        self.reward_per_agent = reward_per_agent
        self._same_step = autoreset == "same_step"
        self._form: ReturnForm | None = None
        self._action_shape = (num_envs, *single_action_space.shape)
        self._started = False
        self._clear_episodes()

    # What an environment fills in.

    @abstractmethod
    def _reset_envs(self) -> Observation:
        """Starts a new episode in every env, with randomness from ``self.np_random`` only."""

    @abstractmethod
    def _step_envs(self, actions: NDArray[Any], frozen: NDArray[np.bool_] | None) -> VectorStep:
        """Steps every env; an env whose episode ends starts its next one at once.

        Args:
            actions: int [E, N] or float32 [E, N, A] (mixed: [E, N, P + C]).
            frozen: bool [E], envs that must stay exactly as they are (neither state nor
                random state moves) and return the observation they are in, reward 0 and no end
                of an episode; None where no env is.
        """

    def _final_obs_and_metrics(self) -> tuple[Observation, dict[str, NDArray[np.float32]]]:
        """Asked at most once after a step that ended an episode somewhere.

        By default what ``_step_envs`` has put into ``self._last``.

        Returns:
            The observation [E, ...] before the envs that ended were reset, and the arrays
            float32 [E] of ``metric_names``. Only rows of envs that ended are read.
        """
        return self._last

    @abstractmethod
    def _get_envs_state(self) -> dict[str, Any]:
        """Everything of the envs that the next step depends on, as arrays or plain values."""

    @abstractmethod
    def _set_envs_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what ``_get_envs_state`` returned."""

    # What an environment may add.

    def scripted_actions(self, name: str) -> NDArray[Any]:
        """The actions that a scripted baseline takes now, [E, N] or [E, N, A].

        Raises:
            UserError: ``name`` is none of ``scripted_policies``.
        """
        if not self.scripted_policies:
            raise UserError(f"the environment ({self.simulator}) has no scripted policies.")
        hint = nearest(name, self.scripted_policies)
        raise UserError(
            f"the environment ({self.simulator}) has no scripted policy {name!r}. {hint}"
        )

    def render_frame(self, e: int = 0) -> NDArray[np.uint8]:
        """The env as it is now, red, green and blue [height, width, 3].

        Raises:
            UserError: this environment cannot be drawn.
        """
        raise UserError(f"the environment ({self.simulator}) cannot be drawn.")

    def render_final_frame(self, e: int = 0) -> NDArray[np.uint8] | None:
        """The env as it was when the last step ended its episode, before the next one began.

        Asked only right after such a step. None where the environment does not keep it.
        """
        return None

    def episode_infos(self, e: int) -> Mapping[str, Any]:
        """What the game itself said in the last step of the episode that env ``e`` ended last.

        Callbacks find it in ``episode.infos``. Empty where the environment says nothing.
        """
        return {}

    def metrics_so_far(self) -> dict[str, NDArray[np.float32]]:
        """`metric_names` [E] of the episodes under way, should they be cut short now.

        Asked where an evaluation ends an episode that goes on for too long. By default 0.
        """
        return {name: np.zeros(self.num_envs, np.float32) for name in self.metric_names}

    def cannot_save_reason(self) -> str | None:
        """Why `get_state` cannot hold the envs, in one clause; None where it can.

        A run that is resumed then starts new episodes instead of going on in the old ones.
        """
        return None

    # What the caller sees.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts a new episode in every env.

        Args:
            seed: restarts the random generator, equal seeds give equal trajectories; None
                goes on with it.
            options: no option is known.

        Returns:
            The observation, arrays [E, ...], and empty infos.

        Raises:
            UserError: ``options`` holds anything.
        """
        if options:
            raise UserError(f"reset: unknown options {sorted(options)}; this takes none.")
        super().reset(seed=seed)
        self._clear_episodes()
        self._started = True
        try:
            obs = self._reset_envs()
        except SystemExit as error:
            raise _no_exit(error) from error
        self._returned.check_obs(obs, "_reset_envs")
        return obs, {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[
        Observation, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Steps every env once.

        Args:
            actions: int [E, N] or float32 [E, N, A].

        Returns:
            Observation (arrays [E, ...]), reward float32 [E] or [E, N], terminated bool [E],
            truncated bool [E], infos. ``infos`` is empty until an episode ends; then
            ``final_info`` holds float32 [E] arrays ``episode_return``, ``episode_length`` and
            those of ``metric_names``, valid where ``_final_info`` is True, and, with
            ``same_step``, ``final_obs`` the last observation of the episodes that ended, valid
            where ``_final_obs`` is True.

        Raises:
            UserError: no ``reset`` came before, or ``actions`` has another shape, is not of whole
                numbers in [0, A), or holds a real number that is NaN or infinite; or the
                environment returns something of another form than it must.
        """
        if not self._started:
            raise UserError(f"step: the envs ({self.simulator}) have not started: reset first.")
        actions = np.asarray(actions)
        self._check_actions(actions)
        try:
            step = self._step_envs(actions, self._frozen)
        except SystemExit as error:
            raise _no_exit(error) from error
        self._returned.check_step(step)
        obs, reward, terminated, truncated = step
        self._episode_return += reward.sum(-1) if self.reward_per_agent else reward
        self._episode_length += 1
        if self._frozen is not None:
            self._episode_length[self._frozen] = 0
            self._frozen = None
        done = terminated | truncated
        if not done.any():
            return obs, reward, terminated, truncated, {}

        self._returned.check_ends(terminated, truncated)
        final = self._final_obs_and_metrics()
        self._returned.check_final(final)
        last_obs, metrics = final
        infos: dict[str, Any] = {
            "final_info": self._statistics(metrics),
            "_final_info": done,
        }
        self._episode_return[done] = 0.0
        self._episode_length[done] = 0
        if self._same_step:
            infos |= {"final_obs": last_obs, "_final_obs": done.copy()}
        else:
            for name, value in obs.items():
                value[done] = last_obs[name][done]
            self._frozen = done.copy()
        return obs, reward, terminated, truncated, infos

    def statistics_so_far(self) -> dict[str, NDArray[np.float32]]:
        """What ``final_info`` would be if all episodes were cut short now."""
        return self._statistics(self.metrics_so_far())

    def get_state(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit, here or in another process; picklable.

        Raises:
            UserError: the envs cannot be saved (see `cannot_save_reason`).
        """
        reason = self.cannot_save_reason()
        if reason is not None:
            raise UserError(f"the envs ({self.simulator}) cannot be saved: {reason}.")
        return {
            "num_envs": self.num_envs,
            "random": self.np_random.bit_generator.state,
            "episode_return": self._episode_return.copy(),
            "episode_length": self._episode_length.copy(),
            "frozen": None if self._frozen is None else self._frozen.copy(),
            "envs": self._get_envs_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`get_state` returned.

        Raises:
            UserError: the state is of another number of envs.
        """
        if state["num_envs"] != self.num_envs:
            raise UserError(
                f"set_state: the state holds {state['num_envs']} envs, this environment "
                f"{self.num_envs}; use the same num_envs_per_env_runner."
            )
        self.np_random.bit_generator.state = state["random"]
        self._episode_return = state["episode_return"].copy()
        self._episode_length = state["episode_length"].copy()
        self._frozen = None if state["frozen"] is None else state["frozen"].copy()
        # Checkpoints of version 0.1 call it "worlds".
        self._set_envs_state(state["envs"] if "envs" in state else state["worlds"])

    def _statistics(
        self, metrics: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        return {
            "episode_return": self._episode_return.astype(np.float32),
            "episode_length": self._episode_length.astype(np.float32),
            **metrics,
        }

    @property
    def _name(self) -> str:
        """For messages; `simulator` may be set after ``__init__``."""
        return getattr(self, "simulator", type(self).__name__)

    @property
    def _returned(self) -> ReturnForm:
        """The form of what reset and step return."""
        if self._form is None:
            agents = self.num_agents if self.reward_per_agent else None
            self._form = ReturnForm(
                self._name,
                self.num_envs,
                self.single_observation_space,
                agents,
                self.metric_names,
            )
        return self._form

    def _active(self, frozen: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Which envs ``_step_envs`` moves, bool [E]."""
        return np.ones(self.num_envs, np.bool_) if frozen is None else ~frozen

    def _check_actions(self, actions: NDArray[Any]) -> None:
        if actions.shape != self._action_shape:
            raise UserError(
                f"step: actions must have shape {self._action_shape}, got {actions.shape}."
            )
        space = self.single_action_space
        if isinstance(space, MixedActions):
            choices, most = actions[..., : len(space.sizes)], np.array(space.sizes) - 1
            wrong = ((choices != np.floor(choices)) | (choices < 0) | (choices > most)).any(-1)
            wrong |= ~np.isfinite(actions).all(-1)
            kind = f"whole numbers up to {most.tolist()}, then {space.num_real} finite numbers"
        elif isinstance(space, spaces.Box):
            wrong, kind = ~np.isfinite(actions).all(-1), "finite numbers"
        elif actions.dtype.kind in "iu":
            most = space.nvec - 1
            wrong, kind = (actions < 0) | (actions > most), f"0 to {most.max()}"
        else:
            raise UserError(f"step: actions must be integers, got {actions.dtype}.")
        if wrong.any():
            e, agent = np.argwhere(wrong)[0]
            raise UserError(
                f"step: the action of agent {agent} of env {e} is "
                f"{actions[e, agent].tolist()}, it must be {kind}."
            )

    def _clear_episodes(self) -> None:
        self._episode_return = np.zeros(self.num_envs, np.float64)
        self._episode_length = np.zeros(self.num_envs, np.int64)
        self._frozen = None


def _no_exit(error: SystemExit) -> RuntimeError:
    """An exit of an environment is a failure of it, and must not end the training as a success."""
    return RuntimeError(f"sys.exit({'' if error.code is None else repr(error.code)}) was called")


accept_old_members(TeamVectorEnv, TEAM_VECTOR_ENV)
__getattr__ = old_attributes(
    __name__,
    {
        "WorldStep": f"{__name__}:VectorStep",
        "check_env_config": "rllib_seqmarl.envs.core.config:check_env_config",
    },
)


def random_actions(env: TeamVectorEnv, obs: Observation, rng: np.random.Generator) -> NDArray[Any]:
    """Uniform legal actions: int64 [E, N], or float32 [E, N, A] with real numbers in [-1, 1]."""
    space = env.single_action_space
    if isinstance(space, MixedActions):
        *masks, exists = np.split(obs["action_mask"], np.cumsum(space.sizes), axis=-1)
        choices = [_random_choice(mask, rng) for mask in masks]
        numbers = rng.uniform(-1.0, 1.0, exists.shape) * exists
        return np.concatenate([np.stack(choices, axis=-1), numbers], axis=-1, dtype=np.float32)
    if isinstance(space, spaces.Box):
        actions = rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)
        return actions * obs["action_mask"] if "action_mask" in obs else actions
    return _random_choice(obs["action_mask"], rng)


def _random_choice(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """One of the available actions, [..., A] -> [...]; 0 where there is none."""
    return np.where(mask, rng.random(mask.shape, np.float32), -1.0).argmax(-1)
