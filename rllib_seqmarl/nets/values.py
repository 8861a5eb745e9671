"""Value functions: what each agent's baseline sees. All work in decision order.

B rows, N agents, D width, A actions or action dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.nets.distributions import ActionDistribution
from rllib_seqmarl.nets.transformer import (
    GAIN_BEFORE_GELU,
    Decoder,
    DecoderCache,
    head,
    linear,
)

#: How SrSv completes the joint action of agent i's baseline.
SUCCESSORS = ("greedy", "greedy_per_minibatch", "teacher_forced")


class EncoderValue(nn.Module):
    """MAT: one value per agent from its o_hat, which sees all observations and no action."""

    needs_actions = False
    needs_completions = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = head(width, 1)

    def forward(
        self, decoder: Decoder, encoded: Tensor, actions: Tensor, completions: Tensor | None
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

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """Two of [B, M, D] -> [B, M]."""
        hidden = self.hidden(torch.cat((encoded, decoded), dim=-1))
        return self.out(self.norm(F.gelu(hidden))).squeeze(-1)


class SequentialValue(nn.Module):
    """SrSv, eq. 5-6: agent i's value knows its predecessors' actions and its successors' policies.

    The actions of agents i..N (its own included) are completed greedily, the decoder runs over
    all N actions, and a row N + 1, whose query is o_hat^i, reads the result: its cross-attention
    weights w average one scalar per position,

        V^i = sum_{j=1}^{N+1} w_{N+1,j} f_theta(o_hat^j, e^{j-1}),    o_hat^{N+1} := o_hat^i,

    where e^{j-1} is the decoder's output at the position whose newest token is a^{j-1}.
    """

    needs_actions = True
    needs_completions = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_value = PositionValue(width)

    def forward(
        self, decoder: Decoder, encoded: Tensor, actions: Tensor, completions: Tensor | None
    ) -> Tensor:
        """All N values of a row in one pass over N sequences of N + 1 positions.

        Args:
            decoder: the policy's decoder, which the value shares.
            encoded: o_hat in decision order, [B, N, D].
            actions: unused; the completions contain the predecessors' actions.
            completions: from `complete`, [B, N, N] or [B, N, N, A].

        Returns:
            [B, N].
        """
        if completions is None:
            raise ValueError("SequentialValue needs the joint actions from `complete`.")
        batch, agents, _ = encoded.shape
        sequences = completions.flatten(0, 1)  # [B N, N(, A)]
        # [B N, N + 1, D]: all agents' o_hat, then that of the agent whose value this is.
        everyone = encoded.unsqueeze(1).expand(-1, agents, -1, -1)
        queries = torch.cat((everyone, encoded.unsqueeze(2)), dim=2).flatten(0, 1)
        decoded, query, key = decoder.forward_with_attention(decoder.append(sequences), queries)
        attention = decoder.last_cross_attention
        weights = attention.weights(query[:, :, -1:], key, causal=False).squeeze(1)  # [B N, N + 1]
        values = (weights * self.position_value(queries, decoded)).sum(-1)
        return values.view(batch, agents)


class SequentialValueWithoutPolicy(nn.Module):
    """SrSv "w/o pi", eq. 13: agent i's value knows its predecessors' actions only.

        V^i = sum_{j=1}^{i} w_{i,j} f_theta(o_hat^j, e^{j-1})
    """

    needs_actions = True
    needs_completions = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_value = PositionValue(width)

    def forward(
        self, decoder: Decoder, encoded: Tensor, actions: Tensor, completions: Tensor | None
    ) -> Tensor:
        """o_hat [B, N, D], actions [B, N] or [B, N, A], both in decision order -> [B, N]."""
        decoded, query, key = decoder.forward_with_attention(decoder.shift(actions), encoded)
        weights = decoder.last_cross_attention.weights(query, key, causal=True)  # [B, N, N]
        per_position = self.position_value(encoded, decoded)  # [B, N]
        return (weights @ per_position.unsqueeze(-1)).squeeze(-1)


#: Name -> class of the value function.
VALUES: dict[str, type[EncoderValue | SequentialValue | SequentialValueWithoutPolicy]] = {
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
    # taken[i, j]: agent j decides before agent i, so that its real action stands in row i.
    taken = torch.ones(agents, agents, dtype=torch.bool, device=encoded.device).tril(-1)
    real = actions.unsqueeze(1).expand(-1, agents, *(-1 for _ in actions.shape[1:]))
    if successors == "teacher_forced":
        parameters = decoder.head(decoder(decoder.shift(actions), encoded))
        greedy = distribution.choose(parameters, mask, None).unsqueeze(1)
        return torch.where(taken.view(1, agents, agents, *_ones(actions)), real, greedy)

    rows = encoded.repeat_interleave(agents, dim=0)  # [B N, N, D]
    row_mask = None if mask is None else mask.repeat_interleave(agents, dim=0)
    completions = real.flatten(0, 1).clone()  # [B N, N(, A)]
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


def _ones(actions: Tensor) -> tuple[int, ...]:
    """Trailing axes of size 1 for the action vector, if there is one."""
    return (1,) * (actions.ndim - 2)
