"""What a network that acts for a team takes and gives, whatever its family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from rllib_seqmarl.columns import OBS
from rllib_seqmarl.layout import Layout
from rllib_seqmarl.nets.transformer.model import ActionSpec


@dataclass(frozen=True)
class TeamInputs:
    """What the networks of a team are made for, read from an environment's spaces or a file.

    Attributes:
        observation: name of a column -> its shape in one environment; ``obs`` is (N, D).
        layout: what an agent's observation consists of.
        obs_bytes: whether ``obs`` is uint8, which is read divided by 255; else float32.
        action: what one agent may do.
        num_agents: N.
    """

    observation: Mapping[str, tuple[int, ...]]
    layout: Layout
    obs_bytes: bool
    action: ActionSpec
    num_agents: int

    def describe(self) -> dict[str, Any]:
        """As plain values that JSON holds; `from_description` is the way back."""
        return {
            "observation": {name: list(shape) for name, shape in self.observation.items()},
            "layout": self.layout.get_state(),
            "obs_bytes": self.obs_bytes,
            "num_agents": self.num_agents,
            "action": {
                "discrete": self.action.discrete,
                "size": self.action.size,
                "parts": list(self.action.parts),
            },
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """The inputs that `describe` described.

        Raises:
            KeyError, TypeError, ValueError: not such a description.
        """
        observation = {
            str(name): tuple(int(size) for size in shape)
            for name, shape in description["observation"].items()
        }
        agents = int(description["num_agents"])
        layout = Layout.vector(observation[OBS][-1])
        if "layout" in description:  # files of format 1 have none
            layout = Layout.from_state(description["layout"])
        if observation[OBS] != (agents, layout.size):
            raise ValueError(f"'obs' of {agents} agents has shape {list(observation[OBS])}")
        action = description["action"]
        parts = tuple(int(size) for size in action.get("parts", ()))
        spec = ActionSpec(int(action["size"]), bool(action["discrete"]), parts)
        return cls(observation, layout, bool(description.get("obs_bytes")), spec, agents)


class TeamDecision(NamedTuple):
    """What B teams do, in agent slots, and what they hand to their next step."""

    actions: Tensor  # int [B, N], float [B, N, A], or of several parts float [B, N, P + C]
    log_prob: Tensor  # [B, N, K], K = 1 (discrete), A (continuous) or P + C
    state: dict[str, Tensor]  # as of `TeamActor.get_initial_state`, with a leading axis B
    order: Tensor | None = None  # int [B, N]; None: the index order, or all at once
    order_log_prob: Tensor | None = None  # [B] or [B, N]; None: not learned


class TeamActor(nn.Module):
    """The part of a team's network that acts.

    It is built by `build_actor` and not by its constructor, so that the modules of RLlib, whose
    constructor is RLlib's, are actors too: there is one way to build and one way to act.

    Attributes:
        kind: name of the class in `nets.acting.build.ACTORS`.
    """

    kind: ClassVar[str]

    @abstractmethod
    def build_actor(self, inputs: TeamInputs, settings: Mapping[str, Any]) -> None:
        """Makes the networks.

        Args:
            inputs: what they are made for.
            settings: of the networks, plain values.

        Raises:
            UserError: settings that do not go with the environment.
        """
        raise NotImplementedError

    @property
    def columns(self) -> tuple[str, ...]:
        """The observation columns that `act` reads; the mask only where there is one."""
        raise NotImplementedError

    def get_initial_state(self) -> dict[str, Tensor]:
        """What one environment hands from step to step, before its first: empty without memory."""
        return {}

    def prepare_export(self) -> None:
        """Gives up what a program cannot hold, such as steps that depend on what is found."""

    @abstractmethod
    def act(
        self,
        columns: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        is_first: Tensor,
        *,
        deterministic: bool,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> TeamDecision:
        """Decides for the teams of B environments, without gradients.

        Args:
            columns: observations [B, N, ...].
            state: from the step before, or the initial one, each [B, ...].
            is_first: bool [B], environments in which an episode begins; their state is not used.
            deterministic: every agent takes its most likely action.
            generator: source of the noise; torch's global one without it.
            noise: of the actions, [B, N, A], where it was drawn already.
        """
        raise NotImplementedError
