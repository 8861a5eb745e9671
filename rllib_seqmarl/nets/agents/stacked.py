"""Networks of agents that act, or are evaluated, each on an input of its own: MAPPO, HAPPO, A2PO.

Agents share one set of parameters, or each has its own. Either way one batched pass serves all of
them: a layer x W + b is computed with stacked weights [M, I, O], M = 1 or N. Each agent's
parameters are tensors of their own, so that an optimiser can step one agent and leave the others,
their moments included, alone.

B rows, T steps, n agents (all N, or those asked for), D width of the input, H of the hidden layers.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from rllib_seqmarl.nets.agents.gru import gru
from rllib_seqmarl.nets.distributions import Gaussian
from rllib_seqmarl.nets.encoders.reader import as_reals

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
        # Not through the list itself, which is slow: this is looked up at every step.
        members: list[Tensor] = [p for p in self.members._parameters.values() if p is not None]
        if len(members) > 1 and agents is not None:
            return torch.stack([members[agent] for agent in agents])
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return _stack(members)
        # Every write to a tensor, by an optimiser or by new weights, raises its version.
        versions = [(id(member), member._version) for member in members]
        if self._stacked is None or self._stacked[0] != versions:
            self._stacked = versions, _stack(members)
        return self._stacked[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._stacked = None  # moved to another device or type, without a new version
        return super()._apply(fn, recurse)


def _stack(members: list[Tensor]) -> Tensor:
    return members[0].unsqueeze(0) if len(members) == 1 else torch.stack(members)


class AgentLayerNorm(nn.Module):
    """Scale and shift of a layer normalisation, which the linear layer behind it takes in."""

    def __init__(self, num_param_sets: int, width: int) -> None:
        super().__init__()
        self.weight = StackedParameter([torch.ones(width) for _ in range(num_param_sets)])
        self.bias = StackedParameter([torch.zeros(width) for _ in range(num_param_sets)])


def standardise(x: Tensor) -> Tensor:
    """Layer normalisation [..., D] without scale and shift."""
    return F.layer_norm(x, x.shape[-1:])


class AgentLinear(nn.Module):
    """x W + b with orthogonal W and zero b, as folded tensors [M, L, I] -> [M, L, O].

    Behind a layer normalisation with scale g and shift s, x is what is standardised, and
    (x g + s) W + b is computed as x (g W) + (s W + b): no pass over the rows.
    """

    def __init__(self, num_param_sets: int, inputs: int, outputs: int, gain: float) -> None:
        super().__init__()
        weights = [
            nn.init.orthogonal_(torch.empty(inputs, outputs), gain) for _ in range(num_param_sets)
        ]
        self.weight = StackedParameter(weights)
        self.bias = StackedParameter([torch.zeros(outputs) for _ in range(num_param_sets)])
        self._folded: tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]] | None = None

    def parameters_of(
        self, agents: Sequence[int] | None, norm: AgentLayerNorm | None = None
    ) -> tuple[Tensor, Tensor]:
        """The weights [M, I, O] and biases [M, 1, O] behind ``norm``."""
        weight, bias = self.weight.of(agents), self.bias.of(agents)
        if norm is None:
            return weight, bias.unsqueeze(1)
        sources = (weight, bias, norm.weight.of(agents), norm.bias.of(agents))
        if self._folded is not None and all(map(operator.is_, self._folded[0], sources)):
            return self._folded[1]
        _, _, scale, shift = sources
        bias = torch.baddbmm(bias.unsqueeze(1), shift.unsqueeze(1), weight)
        folded = scale.unsqueeze(-1) * weight, bias
        reusable = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if reusable and agents is None:
            self._folded = sources, folded
        return folded

    def forward(
        self, x: Tensor, agents: Sequence[int] | None, norm: AgentLayerNorm | None = None
    ) -> Tensor:
        """See the class."""
        weight, bias = self.parameters_of(agents, norm)
        if len(weight) == 1:  # a product of two matrices: faster than a batch of one
            return torch.addmm(bias[0], x[0], weight[0]).unsqueeze(0)
        return torch.baddbmm(bias, x, weight)


class AgentGRU(nn.Module):
    """A GRU cell (Cho et al. 2014, with torch's gates) over folded sequences; see `gru`."""

    def __init__(self, num_param_sets: int, width: int) -> None:
        super().__init__()
        self.input = AgentLinear(num_param_sets, width, 3 * width, 1.0)
        self.state = AgentLinear(num_param_sets, width, 3 * width, 1.0)

    def forward(
        self,
        x: Tensor,
        hidden: Tensor,
        is_first: Tensor,
        agents: Sequence[int] | None,
        norm: AgentLayerNorm | None = None,
    ) -> Tensor:
        """All steps of sequences, with the gradient through time.

        Args:
            x: [M, T, L, H].
            hidden: [M, L, H], before the first step.
            is_first: bool [T, L].
            agents: see `StackedParameter.of`.
            norm: see `AgentLinear`.

        Returns:
            The state after each step, [M, T, L, H].
        """
        gates = self.input(x.flatten(1, 2), agents, norm).unflatten(1, x.shape[1:3])
        weight, bias = self.state.parameters_of(agents)
        if len(weight) == 1:
            return gru(gates[0], hidden[0], is_first, weight[0], bias[0, 0]).unsqueeze(0)
        return gru(gates, hidden, is_first, weight, bias[:, 0])


class AgentNetwork(nn.Module):
    """LayerNorm, hidden layers (Linear, activation, LayerNorm), with or without a GRU, Linear.

    The networks of MAPPO (Yu et al. 2022) and HAPPO (Kuba et al. 2022) in HARL's code. A LayerNorm
    follows the GRU too.

    Args:
        inputs: D, of what ``readers`` make of an input.
        outputs: O.
        num_param_sets: M, 1 where all agents share their parameters, else N.
        hidden_sizes: widths of the hidden layers.
        activation: a name in `ACTIVATIONS`.
        feature_norm: normalises the input; HARL does.
        recurrent: adds the GRU, as wide as the last hidden layer.
        output_gain: of the last layer's orthogonal initialisation.
        readers: M modules with parameters, [..., size of an input] -> [..., D], in front of the
            network; empty where it reads the input itself.
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
        readers: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.readers = nn.ModuleList(readers)
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

    def prepare(self, x: Tensor) -> Tensor:
        """What `forward` reads, from inputs [..., D]: it depends on no parameter."""
        return x if len(self.readers) else self._standardised(as_reals(x))

    def _standardised(self, x: Tensor) -> Tensor:
        return x if self.feature_norm is None else standardise(x)

    def _read(self, x: Tensor, agents: Sequence[int] | None) -> Tensor:
        """[..., n, size of an input] -> [..., n, D]."""
        if len(self.readers) == 1:
            return self.readers[0](x)
        slots = range(len(self.readers)) if agents is None else agents
        return torch.stack([self.readers[m](x[..., i, :]) for i, m in enumerate(slots)], -2)

    def forward(
        self, x: Tensor, state: RecurrentState | None = None, agents: Sequence[int] | None = None
    ) -> Output:
        """One pass for all agents.

        Args:
            x: as `prepare` gave it, [..., n, D]; with recurrence, [B, T, n, D].
            state: where the agents are recurrent, and only there.
            agents: the slots of the n agents; None for all N.
        """
        if len(self.readers):
            x = self._standardised(self._read(x, agents))
        norm = self.norms[-1]
        if self.recurrence is None:
            values = self.head(self._body(x, agents), agents, norm)
            return Output(self._unfold(values, x.shape), None)
        assert state is not None
        x = x.transpose(0, 1)  # [T, B, n, D]
        is_first = state.is_first.t().unsqueeze(-1)  # [T, B, 1]
        if self.num_param_sets == 1:
            is_first = is_first.expand(x.shape[:-1])
        folded = self._body(x, agents).unflatten(1, (len(x), -1))  # [M, T, L, H]
        states = self.recurrence(
            folded, self._fold(state.hidden), is_first.flatten(1), agents, norm
        ).flatten(1, 2)
        values = self.head(standardise(states), agents, self.recurrence_norm)
        return Output(
            self._unfold(values, x.shape).transpose(0, 1),
            self._unfold(states, x.shape).transpose(0, 1),
        )

    def _body(self, x: Tensor, agents: Sequence[int] | None) -> Tensor:
        """[..., n, D] -> folded [M, L, H], standardised."""
        x = self._fold(x)
        for layer, norm in zip(self.layers, (self.feature_norm, *self.norms), strict=False):
            x = standardise(self.activation(layer(x, agents, norm)))
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
