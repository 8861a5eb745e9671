"""Teams of PyMARL's recurrent agents: COMA, LICA, RIIT, SCC and SeCA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.columns import ACTION_MASK, OBS
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.acting.base import TeamActor, TeamDecision, TeamInputs
from rllib_seqmarl.nets.agents.epsilon import EpsilonCategorical
from rllib_seqmarl.nets.agents.recurrent import RecurrentAgent
from rllib_seqmarl.nets.encoders.reader import ObservationReader


class RecurrentActor(TeamActor):
    """A `RecurrentAgent` and how it explores."""

    kind = "recurrent"
    agent: RecurrentAgent

    def build_actor(self, inputs: TeamInputs, settings: Mapping[str, Any]) -> None:
        """See `TeamActor`.

        Settings are ``hidden_dim``; ``epsilon``, the share of random actions while exploring, None
        for a behaviour that is the policy itself; ``greedy`` (see `EpsilonCategorical`); and
        ``observation_encoder``.

        Raises:
            UserError: actions that are not discrete.
        """
        if not inputs.action.discrete:
            kind = "have several parts" if inputs.action.parts else "are continuous"
            raise UserError(
                "this algorithm's agents choose among discrete actions, and this environment's "
                f"{kind}: run MAT or SrSv."
            )
        width = settings["hidden_dim"]
        reader = ObservationReader(inputs.layout, settings["observation_encoder"], width)
        size, epsilon, behaviour = inputs.action.size, settings["epsilon"], None
        if epsilon is not None:
            behaviour = EpsilonCategorical(size, greedy=settings["greedy"], epsilon=epsilon)
        self.agent = RecurrentAgent(
            reader.output_size, size, inputs.num_agents, width, behaviour, reader
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """See `TeamActor`."""
        return (OBS, ACTION_MASK)

    def get_initial_state(self) -> dict[str, Tensor]:
        """The recurrent state of the agents of one environment before its first step."""
        return self.agent.initial_state()

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
        """See `TeamActor`."""
        actions, log_prob, after = self.agent.act(
            columns[OBS],
            columns.get(ACTION_MASK),
            dict(state),
            is_first,
            deterministic=deterministic,
            generator=generator,
            noise=noise,
        )
        return TeamDecision(actions, log_prob, after)
