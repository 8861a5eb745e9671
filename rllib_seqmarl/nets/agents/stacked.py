"""Networks of agents that act, or are evaluated, each on an input of its own: MAPPO, HAPPO, A2PO.

Agents share one set of parameters, or each has its own. Either way one batched pass serves all of
them: a layer x W + b is computed with stacked weights [M, I, O], M = 1 or N. Each agent's
parameters are tensors of their own, so that an optimiser can step one agent and leave the others,
their moments included, alone.

B rows, T steps, n agents (all N, or those asked for), D width of the input, H of the hidden layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from rllib_seqmarl.nets.distributions import Gaussian

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh}

_GAINS = {"relu": math.sqrt(2.0), "tanh": 5.0 / 3.0}


class RecurrentState(NamedTuple):
    """The state of recurrent agents before B sequences."""

    hidden: Tensor  # [B, n, H], before the first step
    is_first: Tensor  # bool [B, T], steps at which an episode begins


class Output(NamedTuple):
    """Outputs and, with recurrence, states of a network."""

    values: Tensor  # [..., n, O]
    hidden: Tensor | None  # [B, T, n, H] after each step; None without recurrence


class StackedParameter(nn.Module):
    """One parameter for all agents, or one for each of them.

    Without gradients, as in a rollout, the stacked tensor is reused until one of them changes.
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        super().__init__()
        self.members = nn.ParameterList(values)
        self._stacked: tuple[list[tuple[int, int]], Tensor] | None = None

    def of(self, agents: Sequence[int] | None) -> Tensor:
        """[M, ...]: those of ``agents``, of all for None, or [1, ...] where all share one."""
        if len(self.members) == 1:
            return self.members[0].unsqueeze(0)
        if agents is not None:
            return torch.stack([self.members[agent] for agent in agents])
        # Not through the list itself, which is slow: this is looked up at every step.
        members: list[Tensor] = [p for p in self.members._parameters.values() if p is not None]
        if torch.is_grad_enabled():
            return torch.stack(members)
        # Every write to a tensor, by an optimiser or by new weights, raises its version.
        versions = [(id(member), member._version) for member in members]
        if self._stacked is None or self._stacked[0] != versions:
            self._stacked = versions, torch.stack(members)
        return self._stacked[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._stacked = None  # moved to another device or type, without a new version
        return super()._apply(fn, recurse)


class AgentLinear(nn.Module):
    """x W + b with orthogonal W and zero b, as folded tensors [M, L, I] -> [M, L, O]."""

    def __init__(self, num_param_sets: int, inputs: int, outputs: int, gain: float) -> None:
        super().__init__()
        weights = [
            nn.init.orthogonal_(torch.empty(inputs, outputs), gain) for _ in range(num_param_sets)
        ]
        self.weight = StackedParameter(weights)
        self.bias = StackedParameter([torch.zeros(outputs) for _ in range(num_param_sets)])

    def forward(self, x: Tensor, agents: Sequence[int] | None) -> Tensor:
        """See the class."""
        return torch.baddbmm(self.bias.of(agents).unsqueeze(1), x, self.weight.of(agents))


class AgentLayerNorm(nn.Module):
    """Layer normalisation of folded tensors [M, L, D]."""

    def __init__(self, num_param_sets: int, width: int) -> None:
        super().__init__()
        self.weight = StackedParameter([torch.ones(width) for _ in range(num_param_sets)])
        self.bias = StackedParameter([torch.zeros(width) for _ in range(num_param_sets)])

    def forward(self, x: Tensor, agents: Sequence[int] | None) -> Tensor:
        """See the class."""
        normal = F.layer_norm(x, x.shape[-1:])
        return torch.addcmul(
            self.bias.of(agents).unsqueeze(1), normal, self.weight.of(agents).unsqueeze(1)
        )


class AgentGRU(nn.Module):
    """A GRU cell (Cho et al. 2014, with torch's gates) over folded sequences."""

    def __init__(self, num_param_sets: int, width: int) -> None:
        super().__init__()
        self.input = AgentLinear(num_param_sets, width, 3 * width, 1.0)
        self.state = AgentLinear(num_param_sets, width, 3 * width, 1.0)

    def forward(
        self, x: Tensor, hidden: Tensor, is_first: Tensor, agents: Sequence[int] | None
    ) -> Tensor:
        """All steps of sequences, with the gradient through time.

        Args:
            x: [M, T, L, H].
            hidden: [M, L, H], before the first step.
            is_first: bool [T, L].
            agents: see `StackedParameter.of`.

        Returns:
            The state after each step, [M, T, L, H].
        """
        sets, steps, rows, _ = x.shape
        gates = self.input(x.flatten(1, 2), agents).view(sets, steps, rows, -1)
        weight, bias = self.state.weight.of(agents), self.state.bias.of(agents).unsqueeze(1)
        states = []
        for t in range(steps):
            # Masked, not multiplied: garbage from before the episode may be infinite.
            hidden = hidden.masked_fill(is_first[t].unsqueeze(-1), 0.0)
            reset, update, new = gates[:, t].chunk(3, dim=-1)
            of_reset, of_update, of_new = torch.baddbmm(bias, hidden, weight).chunk(3, dim=-1)
            candidate = torch.tanh(new + torch.sigmoid(reset + of_reset) * of_new)
            hidden = torch.lerp(candidate, hidden, torch.sigmoid(update + of_update))
            states.append(hidden)
        return torch.stack(states, dim=1)


class AgentNetwork(nn.Module):
    """LayerNorm, hidden layers (Linear, activation, LayerNorm), with or without a GRU, Linear.

    The networks of MAPPO (Yu et al. 2022) and HAPPO (Kuba et al. 2022) in HARL's code. A LayerNorm
    follows the GRU too.

    Args:
        inputs: D.
        outputs: O.
        num_param_sets: M, 1 where all agents share their parameters, else N.
        hidden_sizes: widths of the hidden layers.
        activation: a name in `ACTIVATIONS`.
        feature_norm: normalises the input; HARL does.
        recurrent: adds the GRU, as wide as the last hidden layer.
        output_gain: of the last layer's orthogonal initialisation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        num_param_sets: int,
        hidden_sizes: Sequence[int],
        activation: str,
        feature_norm: bool,
        recurrent: bool,
        output_gain: float,
    ) -> None:
        super().__init__()
        self.num_param_sets = num_param_sets
        self.activation = ACTIVATIONS[activation]
        self.feature_norm = AgentLayerNorm(num_param_sets, inputs) if feature_norm else None
        widths = [inputs, *hidden_sizes]
        self.layers = nn.ModuleList(
            AgentLinear(num_param_sets, width, next_width, _GAINS[activation])
            for width, next_width in zip(widths, hidden_sizes, strict=False)
        )
        self.norms = nn.ModuleList(AgentLayerNorm(num_param_sets, width) for width in hidden_sizes)
        self.recurrence = AgentGRU(num_param_sets, widths[-1]) if recurrent else None
        self.recurrence_norm = AgentLayerNorm(num_param_sets, widths[-1]) if recurrent else None
        self.head = AgentLinear(num_param_sets, widths[-1], outputs, output_gain)
        self.width = widths[-1]

    def forward(
        self, x: Tensor, state: RecurrentState | None = None, agents: Sequence[int] | None = None
    ) -> Output:
        """One pass for all agents.

        Args:
            x: [..., n, D]; with recurrence, [B, T, n, D].
            state: where the agents are recurrent, and only there.
            agents: the slots of the n agents; None for all N.
        """
        if self.recurrence is None:
            return Output(self._unfold(self.head(self._body(x, agents), agents), x.shape), None)
        assert state is not None
        assert self.recurrence_norm is not None
        x = x.transpose(0, 1)  # [T, B, n, D]
        is_first = state.is_first.t().unsqueeze(-1)  # [T, B, 1]
        if self.num_param_sets == 1:
            is_first = is_first.expand(x.shape[:-1])
        folded = self._body(x, agents).unflatten(1, (len(x), -1))  # [M, T, L, H]
        states = self.recurrence(
            folded, self._fold(state.hidden), is_first.flatten(1), agents
        ).flatten(1, 2)
        values = self.head(self.recurrence_norm(states, agents), agents)
        return Output(
            self._unfold(values, x.shape).transpose(0, 1),
            self._unfold(states, x.shape).transpose(0, 1),
        )

    def _body(self, x: Tensor, agents: Sequence[int] | None) -> Tensor:
        """[..., n, D] -> folded [M, L, H]."""
        x = self._fold(x)
        if self.feature_norm is not None:
            x = self.feature_norm(x, agents)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(self.activation(layer(x, agents)), agents)
        return x

    def _fold(self, x: Tensor) -> Tensor:
        """[..., n, D] -> [M, L, D]: shared parameters see all agents' rows at once."""
        if self.num_param_sets == 1:
            return x.reshape(1, -1, x.shape[-1])
        return x.movedim(-2, 0).flatten(1, -2)

    def _unfold(self, x: Tensor, shape: torch.Size) -> Tensor:
        """[M, L, O] -> [*shape[:-1], O], the inverse of `_fold`."""
        if self.num_param_sets == 1:
            return x.view(*shape[:-1], -1)
        return x.view(shape[-2], *shape[:-2], -1).movedim(0, -2)


class GaussianOfStd(Gaussian):
    """A `Gaussian` whose deviation is given, [A] or [N, A]."""

    def __init__(self, std: Tensor) -> None:
        self.size = std.shape[-1]
        self._std = std

    @property
    def std(self) -> Tensor:
        """As given."""
        return self._std
