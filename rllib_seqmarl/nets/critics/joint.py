"""Central action values Q(s, v) of a joint action, and target copies of them.

B states, N agents, A discrete actions, S width of the state, K joint actions per state. A joint
action is a tensor [.., N, A] with one row per agent slot: a one-hot vector where the agent's action
is known, a probability vector where it is not (SeCA's action-policy vectors, sec. 3.2).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


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


def hypernetwork(inputs: int, hidden: int | None, outputs: int) -> nn.Module:
    """Two layers, or a linear one where there is no width of a hidden layer."""
    return nn.Linear(inputs, outputs) if hidden is None else two_layers(inputs, hidden, outputs)


class MixingNetwork(nn.Module):
    """A hidden layer whose weights the state sets (Rashid et al. 2018).

        h = g(x W1(s) + b1(s)),   Q = h . w2(s) + b2(s)

    with g = relu. A monotone one takes |W1| and |w2|, and g = elu, so that dQ/dx >= 0 everywhere.
    The hypernetworks run once per state, however many x are mixed in it.

    Args:
        state_dim: S.
        num_inputs: I, numbers in an x.
        embed_dim: E, width of h.
        hypernet_dims: hidden widths of the hypernetworks of W1 and w2; None: they are linear.
        monotone: in every number of x.
    """

    def __init__(
        self,
        state_dim: int,
        num_inputs: int,
        embed_dim: int,
        hypernet_dims: tuple[int | None, int | None],
        *,
        monotone: bool,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.monotone = monotone
        self.weight1 = hypernetwork(state_dim, hypernet_dims[0], num_inputs * embed_dim)
        self.bias1 = nn.Linear(state_dim, embed_dim)
        self.weight2 = hypernetwork(state_dim, hypernet_dims[1], embed_dim)
        self.bias2 = two_layers(state_dim, embed_dim, 1)

    def forward(self, state: Tensor, x: Tensor) -> Tensor:
        """State [B, S], x [B, K, I] -> Q [B, K]."""
        weight1 = self.weight1(state).unflatten(-1, (-1, self.embed_dim))  # [B, I, E]
        weight2 = self.weight2(state).unsqueeze(-1)  # [B, E, 1]
        if self.monotone:
            weight1, weight2 = weight1.abs(), weight2.abs()
        hidden = torch.baddbmm(self.bias1(state).unsqueeze(1), x, weight1)  # [B, K, E]
        hidden = F.elu(hidden) if self.monotone else F.relu(hidden)
        return (hidden @ weight2).squeeze(-1) + self.bias2(state)


class HypernetworkCritic(JointCritic):
    """LICA's critic (Zhou et al. 2020, sec. 4.1): the N A numbers of a joint action are mixed.

    Nothing is monotone.

    Args:
        state_dim: S.
        num_agents: N.
        num_actions: A.
        embed_dim: E, width of the hidden layer.
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
        inputs = num_agents * num_actions
        widths = (hypernet_dim or inputs * embed_dim, embed_dim)
        self.mixer = MixingNetwork(state_dim, inputs, embed_dim, widths, monotone=False)

    def forward(self, state: Tensor, joint_actions: Tensor) -> Tensor:
        """See `JointCritic`."""
        return self.mixer(state, joint_actions.flatten(2))


def fixed(critic: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The critic as a function of its inputs: its weights are constants and get no gradient."""
    weights = {name: weight.detach() for name, weight in critic.named_parameters()}

    def values(state: Tensor, joint_actions: Tensor) -> Tensor:
        out: Tensor = functional_call(critic, weights, (state, joint_actions))
        return out

    return values


class TargetCritic(nn.Module):
    """A copy of a critic that takes over its weights every so many environment steps.

    Copy and count are part of the module, so they are part of every checkpoint; the copy's weights
    get no gradient.

    Attributes:
        env_steps: at the last call of `update_target`; negative: not known.
    """

    env_steps: Tensor

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = copy.deepcopy(critic).requires_grad_(False)
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.long))

    def forward(self, *args: Tensor) -> Tensor:
        """The copy's values."""
        return self.critic(*args)

    def update_target(self, critic: nn.Module, env_steps: int, interval: int) -> None:
        """Copies the weights of ``critic`` if a multiple of ``interval`` has been reached.

        Args:
            critic: of which this is the copy.
            env_steps: of the run so far.
            interval: environment steps from one copy to the next.
        """
        before = int(self.env_steps)
        if before >= 0 and env_steps // interval > before // interval:
            self.critic.load_state_dict(critic.state_dict())
        self.env_steps.fill_(env_steps)
