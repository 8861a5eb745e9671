"""Actors by the name of their kind, for whoever has only a description of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rllib_seqmarl.errors import UserError, nearest
from rllib_seqmarl.nets.acting.base import TeamActor, TeamInputs
from rllib_seqmarl.nets.acting.recurrent import RecurrentActor
from rllib_seqmarl.nets.acting.sequential import SequentialActor
from rllib_seqmarl.nets.acting.simultaneous import SimultaneousActors

ACTORS: dict[str, type[TeamActor]] = {
    actor.kind: actor for actor in (SequentialActor, SimultaneousActors, RecurrentActor)
}


def build_actor(kind: str, inputs: TeamInputs, settings: Mapping[str, Any]) -> TeamActor:
    """An actor with weights as they are before training.

    Raises:
        UserError: an unknown kind, or settings that its networks do not take.
    """
    if kind not in ACTORS:
        raise UserError(f"unknown kind of actor {kind!r}. {nearest(kind, ACTORS)}")
    actor = ACTORS[kind]()
    try:
        actor.build_actor(inputs, settings)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the settings of the actor do not describe a network ({type(error).__name__}: "
            f"{reason}): write the file again with 'rllib export'."
        ) from error
    return actor.eval()
