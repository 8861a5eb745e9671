"""Value functions: what each agent's baseline sees. All work in decision order.

B rows, N agents, D width, A actions or action dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rllib_seqmarl.nets.distributions import ActionDistribution
from rllib_seqmarl.nets.transformer.layers import GAIN_BEFORE_GELU, head, linear
from rllib_seqmarl.nets.transformer.model import ActionDecoder, Decoder
from rllib_seqmarl.nets.values.suffix_pass import SuffixPass
from rllib_seqmarl.nets.values.suffixes import Suffixes

#: How SrSv completes the joint action of agent i's baseline.
SUCCESSORS = ("greedy", "greedy_per_minibatch", "teacher_forced")


class GreedyContinuations(NamedTuple):
    """The joint actions that sequential values read, in decision order."""

    actions: Tensor  # int [B, I, N] or float [B, I, N, A]
    agents: Tensor | None = None  # int [I], ascending: whose they are; None: of all N


class ValueFunction(nn.Module, ABC):
    """Values that may read the policy's own teacher-forced pass, which is why they make it."""

    #: Whether `forward` needs completions, from `complete`.
    needs_completions = False
    #: Whether values depend on actions at all.
    reads_actions = True
    #: Decoder positions, beyond those of the policy's own pass, that are computed at once; where
    #: there are more, the backward pass computes each chunk again instead of keeping it.
    chunk_size: int | None = None

    @abstractmethod
    def forward(
        self,
        decoder: Any,
        encoded: Tensor,
        actions: Tensor,
        completions: GreedyContinuations | None,
    ) -> tuple[Tensor, Tensor]:
        """The policy's teacher-forced pass and the values.

        Args:
            decoder: the policy's decoder, of a network that has this value (`networks`).
            encoded: o_hat, [B, N, D].
            actions: that were taken, int [B, N] or float [B, N, A].
            completions: where they are needed.

        Returns:
            The decoder's output of the N positions, [B, N, D], and normalised values [B, N];
            0 for agents who have no completion where these are needed.
        """

    def values(
        self,
        decoder: Any,
        encoded: Tensor,
        actions: Tensor | None,
        completions: GreedyContinuations | None,
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
        self,
        decoder: Any,
        encoded: Tensor,
        actions: Tensor,
        completions: GreedyContinuations | None,
    ) -> tuple[Tensor, Tensor]:
        """See `ValueFunction`."""
        decoded = decoder(decoder.shift(actions), encoded)
        return decoded, self.values(decoder, encoded, actions, completions)

    def values(
        self,
        decoder: Any,
        encoded: Tensor,
        actions: Tensor | None,
        completions: GreedyContinuations | None,
    ) -> Tensor:
        """o_hat [B, N, D] -> [B, N]; actions play no part."""
        return self.head(encoded).squeeze(-1)


class DecoderValue(ValueFunction):
    """One value per agent from the decoder's output: it knows the predecessors' actions.

    The value of the decoder-only MAT (`mat_decoder` of the official code).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = head(width, 1)

    def forward(
        self,
        decoder: Any,
        encoded: Tensor,
        actions: Tensor,
        completions: GreedyContinuations | None,
    ) -> tuple[Tensor, Tensor]:
        """See `ValueFunction`."""
        decoded = decoder(decoder.shift(actions), encoded)
        return decoded, self.head(decoded).squeeze(-1)


class PositionValue(nn.Module):
    """f_theta of SrSv: (o_hat^j, e^{j-1}) -> a scalar per decoder position."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = linear(2 * width, width, GAIN_BEFORE_GELU)
        self.norm = nn.LayerNorm(width)
        self.out = linear(width, 1)

    def from_encoded(self, encoded: Tensor) -> Tensor:
        """What o_hat gives to the hidden layer, which is a sum of two: [B, N, D] likewise."""
        return F.linear(encoded, self.hidden.weight.chunk(2, dim=1)[0], self.hidden.bias)

    def forward(self, from_encoded: Tensor, decoded: Tensor) -> Tensor:
        """A scalar per position.

        Args:
            from_encoded: of the o_hat that goes with each position, [B, M, D].
            decoded: e, [B, M, D].

        Returns:
            [B, M].
        """
        weight = self.hidden.weight.chunk(2, dim=1)[1]
        hidden = torch.addmm(from_encoded.flatten(0, 1), decoded.flatten(0, 1), weight.T)
        return self.out(self.norm(F.gelu(hidden))).view(decoded.shape[:2])


class SequentialValue(ValueFunction):
    """SrSv, eq. 5-6: agent i's value knows its predecessors' actions and its successors' policies.

    The actions of agents i..N (its own included) are completed greedily, the decoder runs over
    all N actions, and a row N + 1, whose query is o_hat^i, reads the result: its cross-attention
    weights w average one scalar per position,

        V^i = sum_{j=1}^{N+1} w_{N+1,j} f_theta(o_hat^j, e^{j-1}),    o_hat^{N+1} := o_hat^i,

    where e^{j-1} is the decoder's output at the position whose newest token is a^{j-1}.

    The N sequences are computed as branches of the policy's own pass, see `Suffixes`.
    """

    needs_completions = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_value = PositionValue(width)

    def forward(
        self,
        decoder: Decoder,
        encoded: Tensor,
        actions: Tensor,
        completions: GreedyContinuations | None,
    ) -> tuple[Tensor, Tensor]:
        """See `ValueFunction`."""
        if completions is None:
            raise ValueError("SequentialValue needs the joint actions from `complete`.")
        batch, agents, _ = encoded.shape
        tokens, f = decoder.shift(actions), self.position_value
        decoded, trace = decoder.trace(tokens, encoded)
        branch_pass = SuffixPass(decoder, tokens, encoded, trace)
        from_encoded = f.from_encoded(encoded)
        scalars = f(from_encoded, decoded)  # [B, N]
        completed = decoder.as_tokens(completions.actions).flatten(1, 2)  # [B, I N(, A)]

        def of(branches: Suffixes) -> Tensor:
            """V of the agents of some branches, [B, I]."""
            x, weights = branch_pass(completed.index_select(1, branches.token), branches)
            own = f(from_encoded.index_select(1, branches.agent), x)  # [B, R]
            return branches.read(weights, scalars, own)

        chosen = None if completions.agents is None else completions.agents.tolist()
        chunks = list(Suffixes.chunks(agents, batch, self.chunk_size, encoded.device, chosen))
        compute: Callable[[Suffixes], Tensor] = of
        if len(chunks) > 1 and torch.is_grad_enabled():
            compute = partial(checkpoint, of, use_reentrant=False, preserve_rng_state=False)
        values = [compute(branches) for branches in chunks]
        agent = torch.cat([branches.agents for branches in chunks])
        none = encoded.new_zeros(batch, agents)
        return decoded, none.index_copy(1, agent, torch.cat(values, dim=1))


class SequentialValueWithoutPolicy(ValueFunction):
    """SrSv "w/o pi", eq. 13: agent i's value knows its predecessors' actions only.

    V^i = sum_{j=1}^{i} w_{i,j} f_theta(o_hat^j, e^{j-1})
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_value = PositionValue(width)

    def forward(
        self,
        decoder: Decoder,
        encoded: Tensor,
        actions: Tensor,
        completions: GreedyContinuations | None,
    ) -> tuple[Tensor, Tensor]:
        """See `ValueFunction`."""
        decoded, trace = decoder.trace(decoder.shift(actions), encoded)
        query, message = trace[-1].cross_query, trace[-1].cross_message
        cross, f = decoder.last_cross_attention, self.position_value
        scalars = f(f.from_encoded(encoded), decoded).unsqueeze(-1)  # [B, N, 1]
        if decoder.heard is None:
            return decoded, (cross.weights(query, message) @ scalars).squeeze(-1)
        heard = decoder.heard[-1].cross
        weights = cross.heard_weights(query, heard.gather(message), heard.valid)  # [B, N, K, H]
        return decoded, (weights.mean(-1) * heard.gather(scalars).squeeze(-1)).sum(-1)


#: Name -> class of the value function.
VALUES: dict[str, type[ValueFunction]] = {
    "encoder": EncoderValue,
    "decoder": DecoderValue,
    "sequential": SequentialValue,
    "sequential_without_policy": SequentialValueWithoutPolicy,
}


@torch.no_grad()
def complete(
    decoder: ActionDecoder,
    distribution: ActionDistribution,
    encoded: Tensor,
    mask: Tensor | None,
    actions: Tensor,
    successors: str,
    chunk_size: int | None = None,
    agents: Tensor | None = None,
) -> GreedyContinuations:
    """For each agent i the joint action (a^1 .. a^{i-1}, greedy from i on), in decision order.

    Args:
        decoder: the causal decoder.
        distribution: its action distribution.
        encoded: o_hat, [B, N, D].
        mask: available actions, bool [B, N, A], or None.
        actions: the joint action taken, int [B, N] or float [B, N, A].
        successors: ``teacher_forced`` takes every agent's most likely action given the actions
            that its predecessors really took (one pass); otherwise given the greedy ones
            (a cached pass over a sequence per agent).
        chunk_size: decoder positions of these sequences at once; None: all.
        agents: whose are wanted, int [I], ascending; None: all.
    """
    batch, length, _ = encoded.shape
    if successors == "teacher_forced":
        parameters = decoder.head(decoder(decoder.shift(actions), encoded))
        return splice(actions, distribution.choose(parameters, mask, None), agents)

    whose = torch.arange(length, device=encoded.device) if agents is None else agents
    sequences = torch.arange(batch * len(whose), device=encoded.device)
    step = len(sequences) if chunk_size is None else max(1, chunk_size // length)
    completed = []
    for chunk in sequences.split(step):
        row, agent = chunk // len(whose), whose[chunk % len(whose)]
        row_mask = None if mask is None else mask[row]
        completion = actions[row]  # [S, N(, A)]
        cache = decoder.cache(encoded)
        cache.keep(row)
        token = decoder.start_token(len(chunk))
        for k in range(length):
            parameters = cache.head(cache.extend(token, k))
            available = None if row_mask is None else row_mask[:, k : k + 1]
            greedy = distribution.choose(parameters, available, None)  # [S, 1(, A)]
            taken = (k < agent).view(-1, 1, *_ones(actions))
            chosen = torch.where(taken, completion[:, k : k + 1], greedy)
            completion[:, k : k + 1] = chosen
            token = decoder.as_tokens(chosen)
        completed.append(completion)
    return GreedyContinuations(torch.cat(completed).unflatten(0, (batch, len(whose))), agents)


def splice(actions: Tensor, own: Tensor, agents: Tensor | None = None) -> GreedyContinuations:
    """For each agent i the joint action (a^1 .. a^{i-1}, own^i .. own^N), in decision order.

    Args:
        actions: [B, N] or [B, N, A].
        own: likewise.
        agents: whose are wanted, int [I], ascending; None: all.
    """
    positions = torch.arange(actions.shape[1], device=actions.device)
    whose = positions if agents is None else agents
    taken = positions < whose.unsqueeze(1)  # [I, N]: decides before, so its real action stands
    taken = taken.view(1, *taken.shape, *_ones(actions))
    return GreedyContinuations(torch.where(taken, actions.unsqueeze(1), own.unsqueeze(1)), agents)


def _ones(actions: Tensor) -> tuple[int, ...]:
    """Trailing axes of size 1 for the action vector, if there is one."""
    return (1,) * (actions.ndim - 2)
