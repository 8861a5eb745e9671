"""Recurrent agents that decide simultaneously, each from what it has seen of the episode so far.

B sequences, each of one environment, T steps, N agents that share their parameters, A discrete
actions, H width of the recurrent state. Episodes may end anywhere in a sequence: at the first step
of an episode the recurrent state is zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.nets.agents.epsilon import EpsilonCategorical
from rllib_seqmarl.nets.distributions import Categorical
from rllib_seqmarl.nets.encoders.reader import ObservationReader

#: Names of an agent's recurrent state.
HIDDEN = "hidden"
PREVIOUS_ACTIONS = "previous_actions"

RecurrentState = dict[str, Tensor]


class Unrolled(NamedTuple):
    """Agents' outputs at the T steps of B sequences."""

    logits: Tensor  # [B, T, N, A]
    hidden: Tensor  # [B, T, N, H], after each step


class RecurrentAgent(nn.Module):
    """Linear, ReLU, GRU cell, Linear: the agent of PyMARL's algorithms (COMA, LICA, SeCA, ...).

    An agent reads its observation, its own previous action as a one-hot vector (zeros at the first
    step of an episode) and its slot as a one-hot vector.

    Args:
        obs_dim: length D of one agent's observation, or of what ``reader`` makes of it.
        num_actions: A.
        num_agents: N.
        hidden_dim: H.
        behaviour: what actions are drawn from, where that is not the agents' own distribution.
        reader: reads observations for the agent; None: they are real numbers, read as they are.
    """

    def __init__(
        self,
        obs_dim: int,
        num_actions: int,
        num_agents: int,
        hidden_dim: int,
        behaviour: EpsilonCategorical | None = None,
        reader: ObservationReader | None = None,
    ) -> None:
        super().__init__()
        self.reader = reader
        self.num_actions = num_actions
        self.num_agents = num_agents
        self.hidden_dim = hidden_dim
        self.embed = nn.Linear(obs_dim + num_actions + num_agents, hidden_dim)
        self.cell = nn.GRUCell(hidden_dim, hidden_dim)
        self.head = nn.Linear(hidden_dim, num_actions)
        self.distribution = Categorical(num_actions)
        self.behaviour = behaviour or self.distribution

    def initial_state(self) -> RecurrentState:
        """That of the N agents of one environment, before its first step: [N, H] and int [N]."""
        weight = self.head.weight
        return {
            HIDDEN: weight.new_zeros(self.num_agents, self.hidden_dim),
            PREVIOUS_ACTIONS: weight.new_zeros(self.num_agents, dtype=torch.long),
        }

    @torch.no_grad()
    def act(
        self,
        obs: Tensor,
        mask: Tensor | None,
        recurrent_state: RecurrentState,
        is_first: Tensor,
        *,
        deterministic: bool,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, RecurrentState]:
        """Decides for all agents of B environments, which do not see each other's decisions.

        Args:
            obs: [B, N, D].
            mask: available actions, bool [B, N, A]; None where all are.
            recurrent_state: as of `initial_state`, with a leading axis B.
            is_first: bool [B], environments in which an episode begins; their state is not used.
            deterministic: every agent takes its most likely action.
            generator: source of the noise; torch's global one without it.
            noise: [B, N, A], where it was drawn already.

        Returns:
            Actions int [B, N], log-probs [B, N, 1] of ``behaviour``, and the recurrent state for
            the next step.
        """
        logits, hidden = self.step(obs, recurrent_state, is_first)
        if not deterministic and noise is None:
            noise = self.behaviour.noise(obs.shape[:2], obs.device, generator)
        actions = self.behaviour.choose(logits, mask, noise)
        log_prob = self.behaviour.log_prob(logits, mask, actions)
        return actions, log_prob, {HIDDEN: hidden, PREVIOUS_ACTIONS: actions}

    def step(
        self, obs: Tensor, recurrent_state: RecurrentState, is_first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One step of B environments: obs [B, N, D] -> logits [B, N, A], hidden [B, N, H]."""
        unrolled = self.unroll(
            obs.unsqueeze(1),
            recurrent_state[PREVIOUS_ACTIONS].unsqueeze(1),
            recurrent_state[HIDDEN],
            is_first.unsqueeze(1),
        )
        return unrolled.logits[:, 0], unrolled.hidden[:, 0]

    def unroll(
        self, obs: Tensor, previous_actions: Tensor, hidden: Tensor, is_first: Tensor
    ) -> Unrolled:
        """All steps of B sequences, with the gradient through time.

        Args:
            obs: [B, T, N, D].
            previous_actions: int [B, T, N], what each agent did at the step before; of no effect
                at the first step of an episode. See `previous_actions`.
            hidden: [B, N, H], before the first of these steps.
            is_first: bool [B, T].
        """
        if self.reader is not None:
            obs = self.reader(obs)
        not_first = (~is_first).to(obs.dtype)[..., None, None]  # [B, T, 1, 1]
        previous = F.one_hot(previous_actions, self.num_actions) * not_first
        slots = torch.eye(self.num_agents, dtype=obs.dtype, device=obs.device)
        slots = slots.expand(*obs.shape[:2], -1, -1)
        x = F.relu(self.embed(torch.cat((obs, previous, slots), dim=-1)))  # [B, T, N, H]
        batch, _, agents, _ = x.shape
        state = hidden.flatten(0, 1)  # [B N, H]
        states = []
        for t, now in enumerate(x.unbind(1)):
            # Masked, not multiplied: garbage from before the episode may be infinite.
            begins = is_first[:, t, None].expand(batch, agents).flatten()
            state = self.cell(now.flatten(0, 1), state.masked_fill(begins.unsqueeze(-1), 0.0))
            states.append(state)
        after = torch.stack(states, dim=1).unflatten(0, (batch, agents)).transpose(1, 2)
        return Unrolled(self.head(after), after)


def previous_actions(actions: Tensor, before: Tensor) -> Tensor:
    """Actions int [B, T, N], and those before the first, [B, N] -> those before each, [B, T, N]."""
    return torch.cat((before.unsqueeze(1), actions[:, :-1]), dim=1)
