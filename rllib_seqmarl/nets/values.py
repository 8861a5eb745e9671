"""Value functions: what each agent's baseline sees. All work in decision order.

B rows, N agents, D width, A actions or action dimensions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.nets.distributions import ActionDistribution
from rllib_seqmarl.nets.transformer import (
    GAIN_BEFORE_GELU,
    Attention,
    Decoder,
    DecoderCache,
    head,
    linear,
)

#: How SrSv completes the joint action of agent i's baseline.
SUCCESSORS = ("greedy", "greedy_per_minibatch", "teacher_forced")


class ValueFunction(nn.Module, ABC):
    """Values that may read the policy's own teacher-forced pass, which is why they make it."""

    #: Whether `forward` needs completions, from `complete`.
    needs_completions = False
    #: Whether values depend on actions at all.
    reads_actions = True

    @abstractmethod
    def forward(
        self, decoder: Decoder, encoded: Tensor, actions: Tensor, completions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The policy's teacher-forced pass and the values.

        Args:
            decoder: the policy's decoder.
            encoded: o_hat, [B, N, D].
            actions: that were taken, int [B, N] or float [B, N, A].
            completions: [B, N, N] or [B, N, N, A], where they are needed.

        Returns:
            The decoder's output of the N positions, [B, N, D], and normalised values [B, N].
        """

    def values(
        self,
        decoder: Decoder,
        encoded: Tensor,
        actions: Tensor | None,
        completions: Tensor | None,
    ) -> Tensor:
        """The values alone, [B, N]; ``actions`` may be None where the values read none."""
        if actions is None:
            raise ValueError(f"{type(self).__name__} reads actions.")
        return self(decoder, encoded, actions, completions)[1]


class EncoderValue(ValueFunction):
    """MAT: one value per agent from its o_hat, which sees all observations and no action."""

    reads_actions = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = head(width, 1)

    def forward(
        self, decoder: Decoder, encoded: Tensor, actions: Tensor, completions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ValueFunction`."""
        decoded = decoder(decoder.shift(actions), encoded)
        return decoded, self.values(decoder, encoded, actions, completions)

    def values(
        self,
        decoder: Decoder,
        encoded: Tensor,
        actions: Tensor | None,
        completions: Tensor | None,
    ) -> Tensor:
        """o_hat [B, N, D] -> [B, N]; actions play no part."""
        return self.head(encoded).squeeze(-1)


class PositionValue(nn.Module):
    """f_theta of SrSv: (o_hat^j, e^{j-1}) -> a scalar per decoder position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = linear(2 * width, width, GAIN_BEFORE_GELU)
        self.norm = nn.LayerNorm(width)
        self.out = linear(width, 1)

    def forward(self, encoded: Tensor, decoded: Tensor, agent: Tensor | None = None) -> Tensor:
        """A scalar per decoder position.

        Args:
            encoded: o_hat, [B, N, D].
            decoded: e, [B, M, D].
            agent: int [M], whose o_hat goes with which position; None where M = N and it is
                their own.

        Returns:
            [B, M].
        """
        # The layer on (o_hat, e) is a sum of two, of which that on o_hat is run only N times.
        from_encoded, from_decoded = self.hidden.weight.chunk(2, dim=1)
        hidden = F.linear(encoded, from_encoded)
        if agent is not None:
            hidden = hidden.index_select(1, agent)
        hidden = hidden + F.linear(decoded, from_decoded, self.hidden.bias)
        return self.out(self.norm(F.gelu(hidden))).squeeze(-1)


class SequentialValue(ValueFunction):
    """SrSv, eq. 5-6: agent i's value knows its predecessors' actions and its successors' policies.

    The actions of agents i..N (its own included) are completed greedily, the decoder runs over
    all N actions, and a row N + 1, whose query is o_hat^i, reads the result: its cross-attention
    weights w average one scalar per position,

        V^i = sum_{j=1}^{N+1} w_{N+1,j} f_theta(o_hat^j, e^{j-1}),    o_hat^{N+1} := o_hat^i,

    where e^{j-1} is the decoder's output at the position whose newest token is a^{j-1}.

    The N sequences share their prefixes: up to position i, sequence i is the policy's own
    teacher-forced pass. So N + N (N + 1) / 2 rows are computed and not N + N (N + 1): a trunk of
    N rows and, for each i, a branch of the N + 1 - i positions after its position i.
    """

    needs_completions = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_value = PositionValue(width)

    def forward(
        self, decoder: Decoder, encoded: Tensor, actions: Tensor, completions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ValueFunction`. M = N + N (N + 1) / 2 rows."""
        if completions is None:
            raise ValueError("SequentialValue needs the joint actions from `complete`.")
        agents = encoded.shape[1]
        tree = Branches.of(agents, encoded.device)
        branch_tokens = decoder.append(completions.flatten(0, 1))[:, 1:]
        branch_tokens = branch_tokens.unflatten(0, completions.shape[:2])  # [B, N, N(, A)]
        branch_tokens = branch_tokens.flatten(1, 2).index_select(1, tree.token)
        tokens = torch.cat((decoder.shift(actions), branch_tokens), dim=1)  # [B, M(, A)]
        residual = encoded.index_select(1, tree.agent)  # [B, M, D]

        x, projected = decoder.embed(tokens, decoder.token_table())
        weights = x.new_empty(0)
        for index, block in enumerate(decoder.layers()):
            attention, cross = block.self_attention, block.cross_attention
            if index:
                projected = attention.project(x)
            query, key, value = (attention.split_heads(p) for p in projected.chunk(3, dim=-1))
            x = block.norm_self(x + tree.attend(attention, query, key, value))
            query = cross.split_heads(cross.project_query(encoded)).index_select(2, tree.agent)
            key, value = cross.project_key_value(x)
            if index == len(decoder.blocks) - 1:
                weights = tree.weights_of_last(cross, query, key)  # [B, N, N + 1]
            x = block.norm_cross(residual + tree.attend(cross, query, key, value))
            x = block.norm_feed_forward(x + block.feed_forward(x))
        scalars = self.position_value(encoded, x, tree.agent)  # [B, M]
        values = (weights * scalars[:, tree.sequence]).sum(-1)
        return x[:, :agents], values


class SequentialValueWithoutPolicy(ValueFunction):
    """SrSv "w/o pi", eq. 13: agent i's value knows its predecessors' actions only.

    V^i = sum_{j=1}^{i} w_{i,j} f_theta(o_hat^j, e^{j-1})
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_value = PositionValue(width)

    def forward(
        self, decoder: Decoder, encoded: Tensor, actions: Tensor, completions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `ValueFunction`."""
        decoded, query, key = decoder.forward_with_attention(decoder.shift(actions), encoded)
        weights = decoder.last_cross_attention.weights(query, key, causal=True)  # [B, N, N]
        scalars = self.position_value(encoded, decoded)  # [B, N]
        return decoded, (weights @ scalars.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class Branches:
    """Which row is which in a trunk of N positions with a branch of N - i rows after each i.

    Everything counts from 0: branch i holds positions i + 1 .. N of agent i's sequence, whose
    positions 0 .. i are those of the trunk.

    Attributes:
        lengths: rows of the trunk, N, and of each branch, N .. 1.
        agent: int [M], whose o_hat is the query and the residual of each row.
        token: int [M - N], which of the N * N completed actions each branch row reads.
        sequence: int [N, N + 1], the rows of each agent's sequence.
    """

    lengths: tuple[int, ...]
    agent: Tensor
    token: Tensor
    sequence: Tensor

    @staticmethod
    @lru_cache(maxsize=32)
    def of(agents: int, device: torch.device) -> Branches:
        """The branches of N agents."""
        start = agents
        agent, token, sequence = list(range(agents)), [], []
        for i in range(agents):
            agent += [*range(i + 1, agents), i]
            token += [i * agents + j for j in range(i, agents)]
            sequence.append([*range(i + 1), *range(start, start + agents - i)])
            start += agents - i
        tensor = partial(torch.tensor, device=device)
        lengths = (agents, *range(agents, 0, -1))
        return Branches(lengths, tensor(agent), tensor(token), tensor(sequence))

    def attend(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention along the trunk and along each agent's sequence.

        Args:
            attention: where the projections come from.
            query: [B, H, M, D / H].
            key: likewise.
            value: likewise.

        Returns:
            [B, M, D].
        """
        agents = len(self.lengths) - 1
        # Split once: a slice for each branch would cost a tensor of zeros each going backward.
        queries = query.split(self.lengths, dim=2)
        keys, values = key.split(self.lengths, dim=2), value.split(self.lengths, dim=2)
        mixed = [attention.mix(queries[0], keys[0], values[0])]
        for i in range(agents):
            seen_keys = torch.cat((keys[0][:, :, : i + 1], keys[i + 1]), dim=2)
            seen_values = torch.cat((values[0][:, :, : i + 1], values[i + 1]), dim=2)
            mixed.append(attention.mix(queries[i + 1], seen_keys, seen_values))
        return attention.merge_heads(torch.cat(mixed, dim=2))

    def weights_of_last(self, attention: Attention, query: Tensor, key: Tensor) -> Tensor:
        """Attention weights of the last position of each sequence over it: [B, N, N + 1]."""
        last = query.index_select(2, self.sequence[:, -1])  # [B, H, N, D / H]
        keys = key[:, :, self.sequence]  # [B, H, N, N + 1, D / H]
        scores = (keys @ last.unsqueeze(-1)).squeeze(-1) / math.sqrt(key.shape[-1])
        return scores.softmax(-1).mean(1)


#: Name -> class of the value function.
VALUES: dict[str, type[ValueFunction]] = {
    "encoder": EncoderValue,
    "sequential": SequentialValue,
    "sequential_without_policy": SequentialValueWithoutPolicy,
}


@torch.no_grad()
def complete(
    decoder: Decoder,
    distribution: ActionDistribution,
    encoded: Tensor,
    mask: Tensor | None,
    actions: Tensor,
    successors: str,
) -> Tensor:
    """For each agent i the joint action (a^1 .. a^{i-1}, greedy from i on), in decision order.

    Args:
        decoder: the causal decoder.
        distribution: its action distribution.
        encoded: o_hat, [B, N, D].
        mask: available actions, bool [B, N, A], or None.
        actions: the joint action taken, int [B, N] or float [B, N, A].
        successors: ``teacher_forced`` takes every agent's most likely action given the actions
            that its predecessors really took (one pass); otherwise given the greedy ones
            (a cached pass over N sequences).

    Returns:
        [B, N, N] or [B, N, N, A]; row i is the completion of agent i.
    """
    batch, agents, _ = encoded.shape
    if successors == "teacher_forced":
        parameters = decoder.head(decoder(decoder.shift(actions), encoded))
        return splice(actions, distribution.choose(parameters, mask, None))

    rows = encoded.repeat_interleave(agents, dim=0)  # [B N, N, D]
    row_mask = None if mask is None else mask.repeat_interleave(agents, dim=0)
    completions = actions.repeat_interleave(agents, dim=0)  # [B N, N(, A)]
    taken = _taken(agents, encoded.device)
    cache = DecoderCache(decoder, rows)
    token = decoder.shift(completions)[:, :1]
    for k in range(agents):
        parameters = decoder.head(decoder.extend(cache, token, k))
        available = None if row_mask is None else row_mask[:, k : k + 1]
        greedy = distribution.choose(parameters, available, None)  # [B N, 1(, A)]
        keep = taken[:, k].repeat(batch).view(-1, 1, *_ones(actions))
        completions[:, k : k + 1] = torch.where(keep, completions[:, k : k + 1], greedy)
        token = decoder.append(completions[:, k : k + 1])[:, 1:]
    return completions.unflatten(0, (batch, agents))


def splice(actions: Tensor, own: Tensor) -> Tensor:
    """For each agent i the joint action (a^1 .. a^{i-1}, own^i .. own^N), in decision order.

    Args:
        actions: [B, N] or [B, N, A].
        own: likewise.

    Returns:
        [B, N, N] or [B, N, N, A].
    """
    agents = actions.shape[1]
    taken = _taken(agents, actions.device).view(1, agents, agents, *_ones(actions))
    return torch.where(taken, actions.unsqueeze(1), own.unsqueeze(1))


def _taken(agents: int, device: torch.device) -> Tensor:
    """bool [N, N]: agent j decides before agent i, so that its real action stands in row i."""
    return torch.ones(agents, agents, dtype=torch.bool, device=device).tril(-1)


def _ones(actions: Tensor) -> tuple[int, ...]:
    """Trailing axes of size 1 for the action vector, if there is one."""
    return (1,) * (actions.ndim - 2)
