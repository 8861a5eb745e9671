"""Checks a team environment, one's own in particular, before it is trained on."""

from __future__ import annotations

import pickle
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

    That is the form of everything it returns; that equal seeds give equal runs; that a saved state
    goes on as what it was saved from, in the next episodes, too; that an env stays as it is where
    ``autoreset`` wants that; and that what was handed out is not written again. Some checks need
    ends of episodes: let ``num_steps`` be more than an episode has.

    Args:
        env: where it stands afterwards is not said.
        num_steps: of each of the four runs.
        seed: of environment and actions.

    Raises:
        UserError: the first thing that is wrong, named. What training would refuse, too, is told
            in the same words.
    """
    if not isinstance(env, TeamVectorEnv):
        raise UserError(
            f"check_team_env: a {type(env).__name__} is no TeamVectorEnv; a game of PettingZoo or "
            "RLlib becomes one by make_environment('pettingzoo' or 'multi_agent_env', ...)."
        )
    for name, number, least in (("num_steps", num_steps, 1), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise UserError(
                f"check_team_env: {name} must be a whole number from {least}, got {number!r}."
            )
    if not isinstance(getattr(env, "simulator", None), str):
        raise UserError("check_team_env: the attribute 'simulator' must be a str.")
    if env.metadata.get("autoreset_mode") not in AUTORESET_MODES.values():
        raise UserError("check_team_env: metadata['autoreset_mode']: SAME_STEP or NEXT_STEP.")
    first = _run(env, _reset(env, seed), num_steps, seed)
    if env.repeats_with_seed:
        _check_equal(
            first,
            _run(env, _reset(env, seed), num_steps, seed),
            "two runs with the same seed differ",
            "all randomness must come from self.np_random, or from the seed that a game's reset "
            "gets",
        )
    if env.cannot_save_reason() is None:
        obs = {name: first[-1][f"obs.{name}"].copy() for name in env.single_observation_space}
        _check_state(env, obs, num_steps, seed)
    if env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP and env.repeats_with_seed:
        _check_frozen(env, num_steps, seed)


def _reset(env: TeamVectorEnv, seed: int) -> Observation:
    obs, infos = env.reset(seed=seed)
    _check_observation(env, obs, "reset")
    if infos:
        raise UserError("check_team_env: reset must return empty infos.")
    return obs


#: What a step returned, by name: the observation's arrays as "obs.NAME".
Returned = dict[str, NDArray[Any]]


def _run(env: TeamVectorEnv, obs: Observation, num_steps: int, seed: int) -> list[Returned]:
    """Copies of what so many steps return from here on, all of it checked."""
    rng = np.random.default_rng(seed)
    run: list[Returned] = []
    agents = (env.num_agents,) if env.reward_per_agent else ()
    ended = np.zeros(env.num_envs, np.bool_)
    for _ in range(num_steps):
        before = {name: value.copy() for name, value in obs.items()}
        handed_out = obs
        obs, reward, terminated, truncated, infos = env.step(random_actions(env, obs, rng))
        _check_observation(env, obs, "step")
        _check_array("reward", reward, (env.num_envs, *agents), np.float32)
        _check_array("terminated", terminated, (env.num_envs,), np.bool_)
        _check_array("truncated", truncated, (env.num_envs,), np.bool_)
        for name, value in before.items():
            if not np.array_equal(value, handed_out[name]):
                raise UserError(
                    f"check_team_env: step writes into the {name!r} that was returned before: "
                    "return a copy; the caller owns what it was given."
                )
        done = terminated | truncated
        at_the_end: Returned = {}
        if done.any():
            _check_infos(env, infos, done)
            final = infos["final_info"] | infos.get("final_obs", {})
            at_the_end = {f"final.{name}": value[done] for name, value in final.items()}
        if env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP:
            _check_only_started(ended, reward, done)
        ended = done
        returned = {"reward": reward, "terminated": terminated, "truncated": truncated}
        returned |= {f"obs.{name}": value for name, value in obs.items()} | at_the_end
        run.append({name: value.copy() for name, value in returned.items()})
    return run


def _check_only_started(
    ended: NDArray[np.bool_], reward: NDArray[np.float32], done: NDArray[np.bool_]
) -> None:
    """In an env (bool [E]) whose episode ended before, a step does nothing but start the next."""
    moved = ended & (done | (reward.reshape(len(done), -1) != 0).any(-1))
    if moved.any():
        raise UserError(
            f"check_team_env: autoreset 'next_step': env {np.flatnonzero(moved)[0]} has a reward "
            "or an end in the step that only starts its next episode: _step_envs must leave the "
            "envs in 'frozen' as they are."
        )


def _check_equal(run: list[Returned], other: list[Returned], what: str, remedy: str) -> None:
    for step, (one, another) in enumerate(zip(run, other, strict=True)):
        for name, value in one.items():
            if not np.array_equal(value, another[name]):
                raise UserError(
                    f"check_team_env: {what}: {name.removeprefix('obs.')!r} at step {step + 1}: "
                    f"{remedy}."
                )


def _check_state(env: TeamVectorEnv, obs: Observation, num_steps: int, seed: int) -> None:
    """Whether envs go on from what was saved as they did from where it was saved."""
    try:
        saved = pickle.dumps(env.get_state())
    except UserError:
        raise
    except Exception as error:  # whatever an object of somebody else raises
        raise UserError(
            f"check_team_env: what get_state returns cannot be pickled ({type(error).__name__}: "
            f"{' '.join(str(error).split())}): let _get_envs_state return arrays and plain values."
        ) from error
    start = {name: value.copy() for name, value in obs.items()}
    went_on = _run(env, obs, num_steps, seed + 1)
    # As a training that goes on: the envs are in another episode, or in another process.
    _run(env, _reset(env, seed + 1), 1, seed)
    env.set_state(pickle.loads(saved))
    _check_equal(
        went_on,
        _run(env, start, num_steps, seed + 1),
        "envs that take back a saved state do not go on as they did",
        "_get_envs_state must return all that the next steps depend on, _set_envs_state take all "
        "of it back",
    )


def _check_frozen(env: TeamVectorEnv, num_steps: int, seed: int) -> None:
    """Whether envs in ``frozen`` stay as they are."""
    moving = _run(env, _reset(env, seed), num_steps, seed)
    obs = _reset(env, seed)
    start = {name: value.copy() for name, value in obs.items()}
    actions = random_actions(env, start, np.random.default_rng(seed))
    step = env._step_envs(actions, np.ones(env.num_envs, np.bool_))
    stayed = {**step.obs, "reward": step.reward, "end": step.terminated | step.truncated}
    nothing = {"reward": np.zeros_like(step.reward), "end": np.zeros(env.num_envs, np.bool_)}
    remedy = "_step_envs must leave them, their randomness and their observation as they are"
    what = "envs that are frozen, as in autoreset 'next_step', move on"
    _check_equal([{**start, **nothing}], [stayed], what, remedy)
    _check_equal(moving, _run(env, start, num_steps, seed), what, remedy)


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
