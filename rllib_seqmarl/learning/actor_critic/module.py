"""The RLModule shell around agents with networks of their own input, and their critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.advantages import AdvantageBatch, Trajectory
from rllib_seqmarl.learning.base.explanation import (
    NO_ATTENTION,
    NO_CRITIC,
    NO_ORDER,
    Explanation,
    Quantity,
)
from rllib_seqmarl.learning.base.module import NO_STATE, TeamModule, observation_layout
from rllib_seqmarl.nets.acting.simultaneous import (
    ACTOR_HIDDEN,
    SimultaneousActors,
    network_settings,
)
from rllib_seqmarl.nets.agents.stacked import AgentNetwork, RecurrentState
from rllib_seqmarl.nets.encoders.reader import CriticReader, ObservationReader, as_reals
from rllib_seqmarl.returns import ValueNorm
from rllib_seqmarl.rollout.rollout_batch import OBS, STATE

#: Name of the critic's recurrent state.
CRITIC_HIDDEN = "critic_hidden"

#: What the critic reads, and whether each agent has its own (V = N) or all share it (V = 1).
CRITIC_INPUTS = {
    "environment": False,  # the environment's state
    "environment_and_observation": True,  # with the agent's observation beside it
    "observations": False,  # those of all agents
    "observation": True,  # the agent's alone: independent learners
}


@dataclass(kw_only=True)
class ActorCriticBatch(AdvantageBatch):
    """Rows are steps [B, N, ...] or, with recurrent agents, chunks of L steps [B, L, N, ...].

    Attributes:
        obs: what the actors read (see `ActorModule.actor_input`).
        trajectory: what the advantages were estimated from; of the whole rollout.
        metric_weight: what a gradient step counts in the metrics of an update, for an algorithm
            that takes another number of them than one per minibatch and epoch.
    """

    critic_input: Tensor  # [B, V, S], V = N, or 1 where all agents share it
    is_first: Tensor | None = None  # bool [B, L]
    actor_hidden: Tensor | None = None  # at the first step of each chunk, [B, N, H]
    critic_hidden: Tensor | None = None  # likewise, [B, V, H]
    trajectory: Trajectory
    metric_weight: float = 1.0

    def of_agents(self, agents: Tensor, axis: int) -> Self:
        """The columns of some agents, int [n], and whatever belongs to all.

        Args:
            agents: slots.
            axis: of the agents in columns of steps; that of hidden states is 1.
        """
        own = {}
        for name, column in self.columns():
            at = 1 if name in (ACTOR_HIDDEN, CRITIC_HIDDEN) else axis
            of_all = name in ("critic_input", CRITIC_HIDDEN) and column.shape[at] == 1
            if column.ndim > at and not of_all:
                own[name] = column.index_select(at, agents)
        return self.replace(**own)


class Evaluation(NamedTuple):
    """Log-probs and entropies of actions that were taken."""

    log_prob: Tensor  # [..., n, K]
    entropy: Tensor  # [..., n]


class ActorModule(SimultaneousActors, TeamModule):
    """Actors, critic and value normalisation of a team whose agents decide simultaneously.

    Rows of feed-forward agents are [B, N, ...], of recurrent ones sequences [B, T, N, ...] beside
    the recurrent states at their start. On rollout processes the critic is left out, unless it is
    recurrent and its state must be updated at every step; in an evaluation it is always left out.
    """

    critic: AgentNetwork
    value_norm: ValueNorm

    def setup(self) -> None:
        """Builds the networks from the spaces of one environment.

        Raises:
            UserError: no ``state`` in the environment though the critic reads it.
        """
        settings = self.actor_settings(self.model_config)
        self.build_actor(self.inputs, settings)
        if self._rollout_updates_critic_state or not self.inference_only:
            self.critic = self._make_critic(network_settings(settings))
        if not self.inference_only:
            self.value_norm = ValueNorm(self.model_config["value_norm_beta"])

    def _make_critic(self, network: Mapping[str, Any]) -> AgentNetwork:
        """The critic, with encoders of its own for the observations among what it reads."""
        space, settings = self.observation_space, self.model_config
        source, encoder = settings["state"], settings.get("observation_encoder")
        num_param_sets = 1 if settings["share_critic"] else self.num_agents
        layout, inputs = observation_layout(space), 0
        if source.startswith("environment"):
            if STATE not in space.spaces:
                raise UserError(NO_STATE)
            inputs = int(np.prod(space[STATE].shape))
        num_obs = {"environment": 0, "observations": self.num_agents}.get(source, 1)
        readers: list[CriticReader] = []
        if encoder is not None and num_obs:
            width = settings["hidden_sizes"][0]
            readers = [
                CriticReader(ObservationReader(layout, encoder, width), inputs, num_obs)
                for _ in range(num_param_sets)
            ]
            inputs = readers[0].output_size
        else:
            inputs += num_obs * layout.size
        return AgentNetwork(
            inputs, 1, num_param_sets=num_param_sets, output_gain=1.0, readers=readers, **network
        )

    @classmethod
    def actor_settings(cls, model_config: Mapping[str, Any]) -> dict[str, Any]:
        """See `TeamModule`."""
        own = {
            "share_parameters": model_config["share_parameters"],
            # Version 0.2 had none.
            "observation_encoder": model_config.get("observation_encoder"),
        }
        return own | network_settings(model_config)

    def get_non_inference_attributes(self) -> list[str]:
        """What acting does not need."""
        return ["value_norm"] if self._rollout_updates_critic_state else ["critic", "value_norm"]

    def set_state(self, state: Mapping[str, object]) -> None:
        """Takes over weights.

        Raises:
            UserError: they are of another number of actors, which RLlib does not compare.
        """
        actors = sum(name.startswith("actor.head.weight.members.") for name in state)
        if actors != self.actor.num_param_sets:
            raise UserError(
                f"it has {actors} actors, one for each agent, for {self.num_agents} agents; with "
                "share_parameters: true it would take any number"
            )
        super().set_state(state)

    def get_initial_state(self) -> dict[str, Tensor]:
        """Hidden states of one environment, [N, H]; nothing for feed-forward agents."""
        initial = super().get_initial_state()
        if self._rollout_updates_critic_state:
            weight = self.critic.head.weight.members[0]
            values = self.num_agents if self.has_value_per_agent else 1
            initial[CRITIC_HIDDEN] = weight.new_zeros(values, self.critic.width)
        return initial

    @torch.no_grad()
    def critic_state(
        self, columns: Mapping[str, Tensor], state: Mapping[str, Tensor], is_first: Tensor
    ) -> dict[str, Tensor]:
        """See `TeamModule`."""
        if not self._rollout_updates_critic_state:
            return {}
        before = RecurrentState(state[CRITIC_HIDDEN], is_first.unsqueeze(1))  # [B, T = 1]
        _, hidden = self.critic_pass(self.critic_input(columns).unsqueeze(1), before)
        assert hidden is not None
        return {CRITIC_HIDDEN: hidden[:, 0]}

    @property
    def _rollout_updates_critic_state(self) -> bool:
        """Whether a rollout must update the critic's recurrent state."""
        return self.model_config["recurrent"] and self.model_config["learns"]

    @property
    def has_value_per_agent(self) -> bool:
        """Whether agents have values of their own; otherwise there is one for the team."""
        return self.critic.num_param_sets > 1 or CRITIC_INPUTS[self.model_config["state"]]

    # -- passes ------------------------------------------------------------------------------

    def critic_input(self, columns: Mapping[str, Tensor]) -> Tensor:
        """What the critic reads, from observation columns [..., N, D]: [..., V, S]."""
        return self.critic.prepare(self._critic_source(columns))

    def _critic_source(self, columns: Mapping[str, Tensor]) -> Tensor:
        obs, source = columns[OBS], self.model_config["state"]
        if source == "observation":
            return obs
        if source == "observations":
            return obs.flatten(-2).unsqueeze(-2)
        state = columns[STATE].flatten(obs.ndim - 2).unsqueeze(-2)
        if source == "environment":
            return state
        return torch.cat((state.expand(*obs.shape[:-1], -1), as_reals(obs)), dim=-1)

    def critic_pass(
        self, x: Tensor, state: RecurrentState | None = None, agents: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Normalised values [..., n] of all agents or of some, and the critic's hidden states.

        Args:
            x: [..., V, S].
            state: where the critic is recurrent; x is then [B, T, V, S].
            agents: slots, as in `AgentNetwork`; None for all.
        """
        count = self.num_agents if agents is None else len(agents)
        if self.has_value_per_agent:
            x = x.expand(*x.shape[:-2], count, -1)
        out = self.critic(x, state, agents)
        values = out.values.squeeze(-1)
        return values.expand(*values.shape[:-1], count), out.hidden

    def values(self, batch: ActorCriticBatch, agents: Sequence[int] | None = None) -> Tensor:
        """Normalised values [..., n] of rows."""
        state = self._state(batch.critic_hidden, batch.is_first)
        return self.critic_pass(batch.critic_input, state, agents)[0]

    def evaluate(self, batch: ActorCriticBatch, agents: Sequence[int] | None = None) -> Evaluation:
        """Log-probs and entropies of the actions that were taken.

        Args:
            batch: columns of the n agents.
            agents: their slots; None for all.
        """
        state = self._state(batch.actor_hidden, batch.is_first)
        parameters = self.actor(batch.obs, state, agents).values
        distribution = self.distribution(agents)
        return Evaluation(
            distribution.log_prob(parameters, batch.action_mask, batch.actions),
            distribution.entropy(parameters, batch.action_mask),
        )

    def _forward_train(self, batch: ActorCriticBatch, **kwargs: object) -> Evaluation:
        """Rows with the columns of all agents; see `evaluate`."""
        return self.evaluate(batch)

    @torch.no_grad()
    def explain(self, columns: dict[str, Tensor]) -> Explanation:
        """The critic's values; see `TeamModule.explain`."""
        said = Explanation(missing=[NO_ORDER, NO_ATTENTION])
        if self.inference_only:
            said.missing.append(NO_CRITIC)
            return said
        x, state = self.critic_input(columns).unsqueeze(0), None  # [1, T, V, S]
        if self.model_config["recurrent"]:
            count = self.num_agents if self.has_value_per_agent else 1
            is_first = torch.arange(x.shape[1], device=x.device).unsqueeze(0) == 0
            state = RecurrentState(x.new_zeros(1, count, self.critic.width), is_first)
        values = self.value_norm.denormalize(self.critic_pass(x, state)[0][0])  # [T, N]
        title = "value of each agent (reward units)"
        if not self.has_value_per_agent:
            values, title = values[:, :1], "value of the team (reward units)"
        said.quantities.append(Quantity(title, values))
        return said

    @staticmethod
    def _state(hidden: Tensor | None, is_first: Tensor | None) -> RecurrentState | None:
        return None if hidden is None or is_first is None else RecurrentState(hidden, is_first)
