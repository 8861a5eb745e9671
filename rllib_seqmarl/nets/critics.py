"""Central action values Q(s, v) of a joint action, and target copies of them.

B states, N agents, A discrete actions, S width of the state, K joint actions per state. A joint
action is a tensor [.., N, A] with one row per agent slot: a one-hot vector where the agent's action
is known, a probability vector where it is not (SeCA's action-policy vectors, sec. 3.2).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class JointCritic(nn.Module, ABC):
    """Q of several joint actions in the same state."""

    @abstractmethod
    def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        """Action values.

        Args:
            state: [B, S], what the critic reads beside the joint action.
            joint_actions: [B, K, N, A].

        Returns:
            Q [B, K]; [B, K, N] of a critic that has a value for every agent.
        """


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, ReLU, Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class HypernetworkCritic(JointCritic):
    """LICA's critic (Zhou et al. 2020, sec. 4.1): a mixing network whose weights the state sets.

        h = relu(v W1(s) + b1(s)),   Q = h . w2(s) + b2(s)

    with v the N A numbers of a joint action. Nothing is monotone. The hypernetworks run once per
    state, however many joint actions are evaluated in it.

    Args:
        state_dim: S.
        num_agents: N.
        num_actions: A.
        embed_dim: E, width of h.
        hypernet_dim: hidden width of the hypernetwork of W1. None is LICA's own N A E, of which
            the weights grow with (N A E)^2: 136 million for ten agents with 18 actions.
    """

    def __init__(
        self,
        state_dim: int,
        num_agents: int,
        num_actions: int,
        embed_dim: int,
        hypernet_dim: int | None,
    ) -> None:
        super().__init__()
        weights = num_agents * num_actions * embed_dim
        self.embed_dim = embed_dim
        self.weight1 = two_layers(state_dim, hypernet_dim or weights, weights)
        self.bias1 = nn.Linear(state_dim, embed_dim)
        self.weight2 = two_layers(state_dim, embed_dim, embed_dim)
        self.bias2 = two_layers(state_dim, embed_dim, 1)

    def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        """See `JointCritic`."""
        weight1 = self.weight1(state).unflatten(-1, (-1, self.embed_dim))  # [B, N A, E]
        bias1 = self.bias1(state).unsqueeze(1)  # [B, 1, E]
        hidden = F.relu(torch.baddbmm(bias1, joint_actions.flatten(2), weight1))  # [B, K, E]
        return (hidden @ self.weight2(state).unsqueeze(-1)).squeeze(-1) + self.bias2(state)


class TargetCritic(nn.Module):
    """A copy of a critic that takes over its weights every ``interval`` gradient steps.

    Copy and count are part of the module, so they are part of every checkpoint; the copy's weights
    get no gradient.
    """

    updates: Tensor

    def __init__(self, critic: nn.Module, interval: int) -> None:
        super().__init__()
        self.interval = interval
        self.critic = copy.deepcopy(critic).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, *args: Tensor) -> Tensor:
        """The copy's values."""
        return self.critic(*args)

    def follow(self, critic: nn.Module) -> None:
        """Counts a gradient step of ``critic`` and takes over its weights when it is time."""
        self.updates += 1
        if self.updates % self.interval == 0:
            self.critic.load_state_dict(critic.state_dict())
