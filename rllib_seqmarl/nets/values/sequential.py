"""SrSv's value in its fast form; `sequential_reference` is the same in its readable form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rllib_seqmarl.nets.transformer.kv_cache import action_cache
from rllib_seqmarl.nets.transformer.model import GAIN_BEFORE_GELU, Decoder, DecoderTrace, linear
from rllib_seqmarl.nets.values.base import JointActions, NetworkSizes, ValueFunction
from rllib_seqmarl.nets.values.neighbour_pass import (
    neighbour_values,
    pad_entries,
    prepare_neighbours,
)
from rllib_seqmarl.nets.values.suffix_pass import SuffixPass
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
        """o_hat and e of each position, [B, M, D] each -> [B, M]."""
        return self.from_parts(self.from_encoded(o_hat), e)

    def from_encoded(self, o_hat: Tensor) -> Tensor:
        """What o_hat gives to the hidden layer, which is a sum of two: [B, N, D] likewise."""
        return F.linear(o_hat, self.hidden.weight.chunk(2, dim=1)[0], self.hidden.bias)

    def from_parts(self, from_encoded: Tensor, e: Tensor) -> Tensor:
        """`forward`, where `from_encoded` of each position is known."""
        weight = self.hidden.weight.chunk(2, dim=1)[1]
        hidden = torch.addmm(from_encoded.flatten(0, 1), e.flatten(0, 1), weight.T)  # [B M, D]
        return self.out(self.norm(F.gelu(hidden))).view(e.shape[:2])


class SequentialValue(ValueFunction):
    """SrSv, eq. 5-6: agent i's value knows its predecessors' actions and its successors' policies.

    Agents i..N (agent i included) go on greedily after the actions of agents 1..i-1, the decoder
    runs over all N actions, and a position N + 1, whose query is o_hat^i, reads the result: its
    cross-attention weights w average one scalar per position,

        V^i = sum_{j=1}^{N+1} w_{N+1,j} f_theta(o_hat^j, e^{j-1}),    o_hat^{N+1} := o_hat^i,

    where e^{j-1} is the decoder's output at the position whose newest token is a^{j-1}.

    The N sequences share a prefix each with the policy's own pass, see `Suffixes`.

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
            int [B, I, N] or float [B, I, N, A]; where attention is to neighbours, what
            `prepare_neighbours` returns. See `ValueFunction.prepare`.
        """
        if taken.neighbours is not None:
            continuations = None
            if taken.autoregressive and self.successors != "teacher_forced":
                continuations = greedy_continuations(taken, self.chunk_size, agent_ids)
            return prepare_neighbours(taken, continuations, agent_ids)
        if taken.autoregressive and self.successors != "teacher_forced":
            return greedy_continuations(taken, self.chunk_size, agent_ids)
        greedy = taken.distribution.choose(taken.parameters(), taken.mask, None)
        return mix_prefix(taken.actions, greedy, agent_ids)

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
        if trace.neighbours is not None:
            return neighbour_values(self.position_value, trace, decoder, prepared, agent_ids)
        assert trace.output is not None
        encoded, f = trace.encoded, self.position_value
        batch, agents, _ = encoded.shape
        suffix_pass = SuffixPass(decoder, trace)
        from_encoded = f.from_encoded(encoded)
        of_prefix = f.from_parts(from_encoded, trace.output)  # [B, N]
        tokens = decoder.as_tokens(prepared).flatten(1, 2)  # [B, I N(, A)]

        def of(suffixes: Suffixes) -> Tensor:
            """V of the agents of some suffixes, [B, I]."""
            e, weights = suffix_pass(tokens.index_select(1, suffixes.token), suffixes)
            own = f.from_parts(from_encoded.index_select(1, suffixes.agent), e)  # [B, R]
            return suffixes.read(weights, of_prefix, own)

        chosen = None if agent_ids is None else agent_ids.tolist()
        chunks = list(Suffixes.chunks(agents, batch, self.chunk_size, encoded.device, chosen))
        compute: Callable[[Suffixes], Tensor] = of
        positions = batch * sum(len(suffixes.suffix) for suffixes in chunks)
        bounded = self.chunk_size is not None and positions > self.chunk_size
        if bounded and len(chunks) > 1 and torch.is_grad_enabled():
            compute = partial(checkpoint, of, use_reentrant=False, preserve_rng_state=False)
        values = torch.cat([compute(suffixes) for suffixes in chunks], dim=1)
        ids = torch.cat([suffixes.agents for suffixes in chunks])
        return encoded.new_zeros(batch, agents).index_copy(1, ids, values)


@torch.no_grad()
def greedy_continuations(
    taken: JointActions, chunk_size: int | None = None, agent_ids: Tensor | None = None
) -> Tensor:
    """For each agent i (a^1 .. a^{i-1}, greedy from i on): a cached pass over each sequence.

    Args:
        taken: the joint actions, and the policy.
        chunk_size: decoder positions of these sequences at once; None: all.
        agent_ids: agents i, int [I], ascending; None: all.

    Returns:
        int [B, I, N] or float [B, I, N, A].
    """
    decoder, encoded, actions = taken.decoder, taken.encoded, taken.actions
    batch, agents, _ = encoded.shape
    ids = torch.arange(agents, device=encoded.device) if agent_ids is None else agent_ids
    sequences = torch.arange(batch * len(ids), device=encoded.device)
    step = len(sequences) if chunk_size is None else max(1, chunk_size // agents)
    continued = []
    for chunk in sequences.split(step):
        row, agent = chunk // len(ids), ids[chunk % len(ids)]
        mask = None if taken.mask is None else taken.mask[row]
        joint = actions[row]  # [S, N(, A)]
        cache = action_cache(decoder, encoded, taken.neighbours)
        cache.keep(row)
        token = decoder.start_tokens(len(chunk))
        for k in range(agents):
            parameters = cache.head(cache.extend(token, k))
            available = None if mask is None else mask[:, k : k + 1]
            greedy = taken.distribution.choose(parameters, available, None)  # [S, 1(, A)]
            before = (k < agent).view(-1, 1, *_ones(actions))
            chosen = torch.where(before, joint[:, k : k + 1], greedy)
            joint[:, k : k + 1] = chosen
            token = decoder.as_tokens(chosen)
        continued.append(joint)
    return torch.cat(continued).unflatten(0, (batch, len(ids)))


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
