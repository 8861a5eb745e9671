"""Teams of agents with networks of their own input: MAPPO, HAPPO, A2PO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.columns import ACTION_MASK, OBS
from rllib_seqmarl.nets.acting.base import TeamActor, TeamDecision, TeamInputs
from rllib_seqmarl.nets.agents.stacked import (
    AgentNetwork,
    GaussianOfStd,
    RecurrentState,
    StackedParameter,
)
from rllib_seqmarl.nets.distributions import (
    ActionDistribution,
    Categorical,
    Mixed,
    bounded_std,
)
from rllib_seqmarl.nets.encoders.reader import ObservationReader

#: Name of the actors' recurrent state.
ACTOR_HIDDEN = "actor_hidden"


def network_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an `AgentNetwork` among settings."""
    names = ("hidden_sizes", "activation", "feature_norm", "recurrent")
    return {name: settings[name] for name in names}


class SimultaneousActors(TeamActor):
    """One actor for all agents or one for each, feed-forward or recurrent."""

    kind = "simultaneous"
    actor: AgentNetwork
    categorical: Categorical | None
    log_std: StackedParameter | None

    def build_actor(self, inputs: TeamInputs, settings: Mapping[str, Any]) -> None:
        """See `TeamActor`; settings are those of `AgentNetwork`, and two more.

        These are ``share_parameters`` and ``observation_encoder``.
        """
        self.num_agents = inputs.num_agents
        self.action = action = inputs.action
        self.recurrent = bool(settings["recurrent"])
        num_param_sets = 1 if settings["share_parameters"] else self.num_agents
        encoder, width = settings["observation_encoder"], settings["hidden_sizes"][0]
        readers = [ObservationReader(inputs.layout, encoder, width) for _ in range(num_param_sets)]
        self.actor = AgentNetwork(
            readers[0].output_size,
            action.size,
            num_param_sets=num_param_sets,
            output_gain=0.01,
            readers=() if encoder is None else readers,
            **network_settings(settings),
        )
        self.log_std = self.categorical = None
        if action.discrete:
            self.categorical = Categorical(action.size)
        elif action.num_real:
            self.log_std = StackedParameter(
                [torch.ones(action.num_real) for _ in range(num_param_sets)]
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """See `TeamActor`."""
        return (OBS, ACTION_MASK)

    def get_initial_state(self) -> dict[str, Tensor]:
        """Hidden states of one environment, [N, H]; nothing for feed-forward agents."""
        if not self.recurrent:
            return {}
        weight = self.actor.head.weight.members[0]
        return {ACTOR_HIDDEN: weight.new_zeros(self.num_agents, self.actor.width)}

    def actor_input(self, columns: Mapping[str, Tensor]) -> Tensor:
        """What the actors read, from observation columns [..., N, D]: the same shape."""
        return self.actor.prepare(columns[OBS])

    def distribution(self, agents: Sequence[int] | None = None) -> ActionDistribution:
        """That of the actions of some agents, by their slots; None: of all."""
        if self.categorical is not None:
            return self.categorical
        real = None
        if self.log_std is not None:
            real = GaussianOfStd(bounded_std(self.log_std.of(agents)))
        if self.action.parts:
            return Mixed(self.action.parts, real)
        assert real is not None
        return real

    @torch.no_grad()
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
        x, mask = self.actor_input(columns), columns.get(ACTION_MASK)
        state_out = {}
        if self.recurrent:
            parameters, hidden = self.actor(
                x.unsqueeze(1),  # [B, T = 1, N, D]
                RecurrentState(state[ACTOR_HIDDEN], is_first.unsqueeze(1)),
            )
            assert hidden is not None
            parameters, state_out = parameters[:, 0], {ACTOR_HIDDEN: hidden[:, 0]}
        else:
            parameters = self.actor(x).values
        distribution = self.distribution()
        if not deterministic and noise is None:
            noise = distribution.noise(x.shape[:2], x.device, generator)
        actions = distribution.choose(parameters, mask, noise)
        return TeamDecision(actions, distribution.log_prob(parameters, mask, actions), state_out)
