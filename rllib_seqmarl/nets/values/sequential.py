"""SrSv's value in its fast form; `sequential_reference` is the same in its readable form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.nets.transformer.kv_cache import action_cache
from rllib_seqmarl.nets.transformer.model import (
    GAIN_BEFORE_GELU,
    BlockTrace,
    Decoder,
    DecoderTrace,
    linear,
)
from rllib_seqmarl.nets.values.base import JointActions, NetworkSizes, ValueFunction
from rllib_seqmarl.nets.values.neighbour_pass import (
    neighbour_values,
    pad_entries,
    prepare_neighbours,
)
from rllib_seqmarl.nets.values.suffix_pass import suffix_pass
from rllib_seqmarl.nets.values.suffixes import Suffixes

#: How the joint action of agent i's baseline goes on after its predecessors' actions.
SUCCESSORS = ("greedy", "greedy_per_minibatch", "teacher_forced")


class PositionValue(nn.Module):
    """f_theta of SrSv: (o_hat^j, e^{j-1}) -> a scalar per decoder position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = linear(2 * width, width, GAIN_BEFORE_GELU)
        self.norm = nn.LayerNorm(width)
        self.out = linear(width, 1)

    def forward(self, o_hat: Tensor, e: Tensor) -> Tensor:
        """o_hat and e of each position, [..., D] each -> [...]."""
        return self.from_parts(self.from_encoded(o_hat), e)

    def from_encoded(self, o_hat: Tensor) -> Tensor:
        """What o_hat gives to the hidden layer, which is a sum of two: [..., D] likewise."""
        return F.linear(o_hat, self.hidden.weight.chunk(2, dim=1)[0], self.hidden.bias)

    def from_parts(self, from_encoded: Tensor, e: Tensor) -> Tensor:
        """`forward`, where `from_encoded` of each position is known."""
        hidden = from_encoded + F.linear(e, self.hidden.weight.chunk(2, dim=1)[1])
        return self.out(self.norm(F.gelu(hidden))).squeeze(-1)


class SequentialValue(ValueFunction):
    """SrSv, eq. 5-6: agent i's value knows its predecessors' actions and its successors' policies.

    Agents i..N (agent i included) go on greedily after the actions of agents 1..i-1, the decoder
    runs over all N actions, and a position N + 1, whose query is o_hat^i, reads the result: its
    cross-attention weights w average one scalar per position,

        V^i = sum_{j=1}^{N+1} w_{N+1,j} f_theta(o_hat^j, e^{j-1}),    o_hat^{N+1} := o_hat^i,

    where e^{j-1} is the decoder's output at the position whose newest token is a^{j-1}.

    The N sequences share a prefix each with the policy's own pass, see `Suffixes`; with attention
    to neighbours they share still more, see `neighbour_rows`.

    Args:
        sizes: of the policy's networks.
        successors: one of `SUCCESSORS`. ``greedy``: their most likely actions, each given the ones
            before, once per iteration; ``greedy_per_minibatch``: before every gradient step;
            ``teacher_forced``: given the actions that their predecessors really took.
        chunk_size: decoder positions of suffixes that are computed at once; where there are more,
            the backward pass computes each chunk again instead of keeping it. None: all.
    """

    prepares = True
    settings: ClassVar = {"successors": "successors", "value_chunk_size": "chunk_size"}

    def __init__(
        self, sizes: NetworkSizes, successors: str = "greedy", chunk_size: int | None = 131_072
    ) -> None:
        super().__init__(sizes)
        self.position_value = PositionValue(sizes.width)
        self.successors, self.chunk_size = successors, chunk_size
        self.prepares_per_minibatch = successors == "greedy_per_minibatch"

    def prepare(self, taken: JointActions, agent_ids: Tensor | None = None) -> Tensor:
        """For each agent i the joint action (a^1 .. a^{i-1}, greedy from i on).

        Returns:
            int16 [B, I, N] or float [B, I, N, A]; where attention is to neighbours, what
            `prepare_neighbours` returns. See `ValueFunction.prepare`.
        """
        is_greedy = taken.autoregressive and self.successors != "teacher_forced"
        if taken.neighbours is not None:
            return prepare_neighbours(taken, is_greedy, agent_ids)
        if is_greedy:
            continuations = greedy_continuations(taken, self.chunk_size, agent_ids)
        else:
            greedy = taken.distribution.choose(taken.parameters(), taken.mask, None)
            continuations = mix_prefix(taken.actions, greedy, agent_ids)
        # Kept for an iteration, N times as many as were taken: in few bytes.
        return continuations.to(torch.int16) if taken.decoder.action.discrete else continuations

    def select(self, prepared: Tensor, indices: Tensor) -> Tensor:
        """See `ValueFunction.select`: the joint actions of these agents."""
        return prepared.index_select(1, indices)

    def join(self, prepared: Sequence[Tensor]) -> Tensor:
        """See `ValueFunction.join`; where attention is to neighbours, lengths may differ."""
        longest = max(part.shape[1] for part in prepared)
        return torch.cat([pad_entries(part, longest) for part in prepared])

    def forward(
        self,
        trace: DecoderTrace,
        decoder: Decoder,
        prepared: Tensor | None = None,
        agent_ids: Tensor | None = None,
    ) -> Tensor:
        """See `ValueFunction.forward`.

        Raises:
            ValueError: ``prepared`` is missing.
        """
        if prepared is None:
            raise ValueError("SequentialValue needs the joint actions from `prepare`.")
        assert trace.tokens is not None
        if trace.neighbours is not None:
            return neighbour_values(self.position_value, trace, decoder, prepared, agent_ids)
        batch, agents, _ = trace.encoded.shape
        ids = torch.arange(agents, device=prepared.device) if agent_ids is None else agent_ids
        chunks = list(_chunks(batch, len(ids), agents, self.chunk_size))
        values, places = [], []
        for rows, some in chunks:
            part = trace if len(chunks) == 1 else _batch_rows(trace, rows)
            assert part.tokens is not None
            continuations = decoder.as_tokens(prepared[rows, some])
            suffixes = Suffixes.of(continuations, part.tokens, ids[some])
            compute: Callable[..., Tensor] = self._of
            if len(chunks) > 1 and torch.is_grad_enabled():
                compute = partial(
                    checkpoint, self._of, use_reentrant=False, preserve_rng_state=False
                )
            values.append(compute(part, decoder, suffixes))
            places.append(suffixes.places + rows.start * agents)
        flat = trace.encoded.new_zeros(batch * agents)
        return flat.index_copy(0, torch.cat(places), torch.cat(values)).view(batch, agents)

    def _of(self, trace: DecoderTrace, decoder: Decoder, suffixes: Suffixes) -> Tensor:
        """V of the pairs of some suffixes, [P]."""
        assert trace.output is not None
        e, weights = suffix_pass(decoder, trace, suffixes)  # [R, D], [P, N + 1]
        f = self.position_value
        of_agent = f.from_encoded(trace.encoded.flatten(0, 1))  # [B N, D]
        of_prefix = f.from_parts(of_agent, trace.output.flatten(0, 1))  # [B N]
        own = f.from_parts(of_agent.index_select(0, suffixes.encoded), e)  # [R]
        scalars = torch.cat((of_prefix, own))
        read = scalars.index_select(0, suffixes.keys.flatten()).view_as(weights)
        return (weights * read).sum(1)


@torch.no_grad()
def greedy_continuations(
    taken: JointActions, chunk_size: int | None = None, agent_ids: Tensor | None = None
) -> Tensor:
    """For each agent i (a^1 .. a^{i-1}, greedy from i on).

    A continuation that begins with the actions that were taken is one of a later agent: the first
    whose greedy action is another. So there is one sequence for every such agent, and from it on
    they are decoded side by side, position by position, behind the keys and values of the pass
    over the actions taken.

    Args:
        taken: the joint actions, and the policy.
        chunk_size: decoder positions of these sequences at once; None: all.
        agent_ids: agents i, int [I], ascending; None: all.

    Returns:
        int [B, I, N] or float [B, I, N, A].
    """
    batch, agents, _ = taken.encoded.shape
    device = taken.encoded.device
    ids = torch.arange(agents, device=device) if agent_ids is None else agent_ids
    continued = taken.actions.unsqueeze(1).repeat(1, len(ids), 1, *_ones(taken.actions))
    # Position by position, oneDNN would copy all keys before each product of theirs.
    with multiply_with("blas"):
        for rows, some in _chunks(batch, len(ids), agents, chunk_size):
            continued[rows, some] = _continue(taken.batch_rows(rows), ids[some])
    return continued


def _continue(taken: JointActions, ids: Tensor) -> Tensor:
    """`greedy_continuations` of some agents, all at once."""
    decoder, actions, mask = taken.decoder, taken.actions, taken.mask
    batch, agents = actions.shape[:2]
    cache = action_cache(decoder, taken.encoded)
    parameters = cache.head(cache.extend(decoder.shift(actions), 0))
    greedy = taken.distribution.choose(parameters, mask, None)
    positions = torch.arange(agents, device=actions.device)
    same = (greedy == actions).view(batch, agents, -1).all(2)
    first = positions.expand(batch, agents).masked_fill(same, agents)  # N: none is another
    first = first.flip(1).cummin(1).values.flip(1)[:, ids]  # [B, I], first from agent i on
    wanted = actions.new_zeros(agents + 1, batch, dtype=torch.bool)
    wanted[first.T, torch.arange(batch, device=actions.device)] = True
    wanted[agents] = True  # for these, the actions taken follow below
    breaks, rows = wanted[:agents].nonzero(as_tuple=True)  # [S] each, by the agent who breaks
    joint = actions[rows]  # [S, N(, A)]
    cache.keep(rows)
    sequences = torch.arange(len(rows), device=actions.device)
    joint[sequences, breaks] = greedy[rows, breaks]
    begun = wanted[:agents].sum(1).cumsum(0).tolist()
    mask = None if mask is None else mask[rows]
    for k in range(1, agents):
        number = begun[k - 1]  # sequences whose own actions begin before position k
        if not number:
            continue
        token = decoder.as_tokens(joint[:number, k - 1 : k])
        available = None if mask is None else mask[:number, k : k + 1]
        parameters = cache.head(cache.extend(token, k))
        joint[:number, k : k + 1] = taken.distribution.choose(parameters, available, None)
    which = wanted.flatten().cumsum(0).sub_(1).view_as(wanted)
    which = which[first.T, torch.arange(batch, device=actions.device)].T  # [B, I]
    return torch.cat((joint, actions))[which]


def mix_prefix(actions: Tensor, others: Tensor, agent_ids: Tensor | None = None) -> Tensor:
    """For each agent i (a^1 .. a^{i-1}, others^i .. others^N).

    Args:
        actions: a, in decision order, [B, N] or [B, N, A].
        others: likewise.
        agent_ids: agents i, int [I], ascending; None: all.

    Returns:
        [B, I, N] or [B, I, N, A].
    """
    positions = torch.arange(actions.shape[1], device=actions.device)
    ids = positions if agent_ids is None else agent_ids
    before = positions < ids.unsqueeze(1)  # [I, N]
    before = before.view(1, *before.shape, *_ones(actions))
    return torch.where(before, actions.unsqueeze(1), others.unsqueeze(1))


def _ones(actions: Tensor) -> tuple[int, ...]:
    """Trailing axes of size 1 for the action vector, if there is one."""
    return (1,) * (actions.ndim - 2)


def _chunks(
    batch: int, count: int, agents: int, positions: int | None
) -> Iterator[tuple[slice, slice]]:
    """Which batch rows and which of I agents are computed at once.

    Args:
        batch: B.
        count: I.
        agents: N.
        positions: what sequences of all N agents may have together; at least one is taken. None
            takes all.
    """
    sequences = batch * count if positions is None else max(1, positions // (agents + 1))
    rows, some = max(1, sequences // count), min(count, sequences)
    for row in range(0, batch, rows):
        for first in range(0, count, some):
            yield slice(row, min(batch, row + rows)), slice(first, first + some)


def _batch_rows(trace: DecoderTrace, rows: slice) -> DecoderTrace:
    """The part of a pass over some rows of the batch."""
    assert trace.tokens is not None
    assert trace.output is not None
    blocks = tuple(BlockTrace(*(part[rows] for part in block)) for block in trace.blocks)
    return DecoderTrace(trace.encoded[rows], trace.tokens[rows], trace.output[rows], blocks)
