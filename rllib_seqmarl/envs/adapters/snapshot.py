"""Saving games that were not written to be saved: pickle them whole, and try whether that holds.

That a game can be pickled says little. Gymnasium's `EzPickle`, from which most games of
PettingZoo derive, pickles the arguments of the constructor: what comes back is a game that has
never been started. Others lose a part of themselves, or draw from a generator that they share.
So objects are pickled with their attributes, and :func:`fault_of_copies` plays on with a copy.
"""

from __future__ import annotations

import copyreg
import hashlib
import io
import pickle
from typing import Any

import cloudpickle
import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle

from rllib_seqmarl.envs.core.contract import Observation, random_actions
from rllib_seqmarl.envs.core.sync_vector import SingleEnv, SyncVectorEnv

#: Steps before the copy is made, and steps of each of two episodes, the one that is going on and
#: the next, that it must share with the original.
_STEPS = 10


def dump(parts: tuple[object, ...]) -> bytes:
    """A game and what belongs to it, with all attributes.

    Raises:
        Exception: whatever an object of it raises that cannot be pickled.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(parts)
    return buffer.getvalue()


def load(saved: bytes) -> tuple[Any, ...]:
    """What :func:`dump` was given."""
    parts: tuple[Any, ...] = pickle.loads(saved)
    return parts


def exact_key(*parts: object) -> bytes | None:
    """By which things are known again within a process; None where they cannot be pickled.

    A text would not do: NumPy shortens long arrays and numbers, and objects may share theirs.
    """
    try:
        pickled = cloudpickle.dumps(parts)
    except Exception:  # whatever an object of somebody else raises
        return None
    return hashlib.sha256(pickled).digest()


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: object) -> object:
        if isinstance(obj, EzPickle):
            return copyreg.__newobj__, (type(obj),), vars(obj), None, None, _set_attributes  # type: ignore[attr-defined]
        return super().reducer_override(obj)


def _set_attributes(obj: object, attributes: dict[str, Any]) -> None:
    vars(obj).update(attributes)


def fault_of_copies(
    single: SingleEnv,
    single_observation_space: spaces.Dict,
    single_action_space: spaces.MultiDiscrete | spaces.Box,
    reward_per_agent: bool = False,
) -> str | None:
    """What goes wrong with a restored copy of ``single``, as the predicate of a sentence.

    Args:
        single: one to be played with; it is closed in the end.
        single_observation_space: of this env.
        single_action_space: of this env.
        reward_per_agent: whether it pays every agent.

    Returns:
        None if it goes on bit for bit like the original.
    """
    both = single_observation_space, single_action_space
    env = SyncVectorEnv([single], *both, reward_per_agent=reward_per_agent)
    obs, _ = env.reset(seed=0)
    try:
        single.get_state()  # most that cannot be saved fail at once
        before = _play(env, obs, seed=1)[-1][0]
        saved = single.get_state()
        original = _play_on(env, single, before)
        single.set_state(saved)
        copy = _play_on(env, single, before)
    except Exception as error:
        return f"fails ({type(error).__name__}: {' '.join(str(error).split())})"
    finally:
        env.close()
    same = all(
        reward == other_reward and all(np.array_equal(obs[name], other[name]) for name in obs)
        for (obs, reward), (other, other_reward) in zip(original, copy, strict=True)
    )
    return None if same else "does not go on as the original does"


def _play_on(
    env: SyncVectorEnv, single: SingleEnv, obs: Observation
) -> list[tuple[Observation, object]]:
    """Goes on, then starts an episode unseeded, which some games draw from what they share."""
    going_on = _play(env, obs, seed=2)
    single.reset(None)
    first = {name: value.copy() for name, value in obs.items()}
    single.observe({name: value[0] for name, value in first.items()})
    return [*going_on, (first, None), *_play(env, first, seed=3)]


def _play(env: SyncVectorEnv, obs: Observation, seed: int) -> list[tuple[Observation, object]]:
    rng = np.random.default_rng(seed)
    played = []
    for _ in range(_STEPS):
        obs, reward, *_ = env.step(random_actions(env, obs, rng))
        played.append((obs, reward[0].tolist()))
    return played
