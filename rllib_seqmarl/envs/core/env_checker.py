"""Checks a team environment, one's own in particular, before it is trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import DTypeLike, NDArray

from rllib_seqmarl.envs.core.contract import (
    AUTORESET_MODES,
    MixedActions,
    Observation,
    TeamVectorEnv,
    random_actions,
)
from rllib_seqmarl.errors import UserError


def check_team_env(env: TeamVectorEnv, num_steps: int = 100, seed: int = 0) -> None:
    """Steps ``env`` with random legal actions and checks all that training relies on.

    Raises:
        UserError: the first thing that is wrong, named.
    """
    rng = np.random.default_rng(seed)
    if not isinstance(getattr(env, "simulator", None), str):
        raise UserError("check_team_env: the attribute 'simulator' must be a str.")
    if env.metadata.get("autoreset_mode") not in AUTORESET_MODES.values():
        raise UserError("check_team_env: metadata['autoreset_mode']: SAME_STEP or NEXT_STEP.")
    obs, infos = env.reset(seed=seed)
    _check_observation(env, obs, "reset")
    if infos:
        raise UserError("check_team_env: reset must return empty infos.")
    for _ in range(num_steps):
        obs, reward, terminated, truncated, infos = env.step(random_actions(env, obs, rng))
        _check_observation(env, obs, "step")
        agents = (env.num_agents,) if env.reward_per_agent else ()
        _check_array("reward", reward, (env.num_envs, *agents), np.float32)
        _check_array("terminated", terminated, (env.num_envs,), np.bool_)
        _check_array("truncated", truncated, (env.num_envs,), np.bool_)
        if (terminated | truncated).any():
            _check_infos(env, infos, terminated | truncated)


def _check_array(name: str, value: object, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    if not isinstance(value, np.ndarray):
        raise UserError(f"check_team_env: {name} must be a NumPy array, got {type(value)}.")
    if value.shape != shape or value.dtype != dtype:
        raise UserError(
            f"check_team_env: {name} must be {np.dtype(dtype)} {shape}, "
            f"got {value.dtype} {value.shape}."
        )
    if not value.flags.writeable:
        raise UserError(f"check_team_env: {name} is read-only; the caller must own it.")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise UserError(f"check_team_env: {name} holds NaN or infinite values.")


def _check_observation(env: TeamVectorEnv, obs: Observation, where: str) -> None:
    # Of what form they are, `reset` and `step` have looked at; here of which types to the letter.
    for name, space in env.single_observation_space.spaces.items():
        _check_array(f"{where}: {name}", obs[name], (env.num_envs, *space.shape), space.dtype)
    dead = ~obs["alive"]
    if obs["obs"][dead].any():
        raise UserError(f"check_team_env: {where}: the observation of a dead agent is not zero.")
    if "neighbours" in obs:
        _check_neighbours(obs["neighbours"], where)
    _check_action_mask(env.single_action_space, obs, where)


def _check_action_mask(space: spaces.Space[Any], obs: Observation, where: str) -> None:
    if isinstance(space, MixedActions):
        sizes, entries = space.sizes, space.mask_size
    elif isinstance(space, spaces.MultiDiscrete):
        sizes, entries = (int(space.nvec.max()),), int(space.nvec.max())
    else:
        return
    if "action_mask" not in obs:
        raise UserError("check_team_env: actions that are chosen need an 'action_mask'.")
    mask: NDArray[np.bool_] = obs["action_mask"]
    if mask.shape[-1] != entries:
        raise UserError(
            f"check_team_env: the 'action_mask' has {mask.shape[-1]} entries per agent where its "
            f"actions need {entries}: give observation_space num_actions={entries}."
        )
    legal = mask.any(-1)
    if not legal.all():
        e, agent = np.argwhere(~legal)[0]
        raise UserError(f"check_team_env: {where}: agent {agent} of env {e} has no legal action.")
    dead = ~obs["alive"]
    for choice in np.split(mask, np.cumsum(sizes), axis=-1)[: len(sizes)]:
        if (choice[dead].sum(-1) > 1).any():
            raise UserError(f"check_team_env: {where}: a dead agent may do more than its no-op.")


def _check_neighbours(neighbours: NDArray[np.int32], where: str) -> None:
    agents = neighbours.shape[1]
    rows = np.sort(neighbours, axis=2)
    twice = ((rows[..., 1:] == rows[..., :-1]) & (rows[..., 1:] >= 0)).any(2)
    itself = (neighbours == np.arange(agents)[:, None]).any(2)
    outside = ((neighbours < -1) | (neighbours >= agents)).any(2)
    for wrong, what in (
        (outside, f"one that is not a slot from 0 to {agents - 1}, nor -1"),
        (itself, "itself"),
        (twice, "another agent twice"),
    ):
        if wrong.any():
            e, agent = np.argwhere(wrong)[0]
            raise UserError(
                f"check_team_env: {where}: agent {agent} of env {e} has {what} among its "
                "neighbours."
            )


def _check_infos(env: TeamVectorEnv, infos: dict[str, Any], done: NDArray[np.bool_]) -> None:
    if not np.array_equal(infos.get("_final_info", ~done), done):
        raise UserError("check_team_env: infos['_final_info'] must be True where an episode ended.")
    for name in ("episode_return", "episode_length", *env.metric_names):
        if name not in infos["final_info"]:
            raise UserError(f"check_team_env: infos['final_info'] lacks {name!r}.")
        _check_array(name, infos["final_info"][name], (env.num_envs,), np.float32)
    if env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP:
        if not np.array_equal(infos.get("_final_obs", ~done), done):
            raise UserError(
                "check_team_env: infos['_final_obs'] must be True where an episode ended."
            )
        ended = {name: value[done] for name, value in infos["final_obs"].items()}
        for name, space in env.single_observation_space.spaces.items():
            _check_array(f"final_obs: {name}", ended[name], (done.sum(), *space.shape), space.dtype)
