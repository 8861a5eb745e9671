"""How the positions of a sequence hear of each other: attention, and what ablations put there.

Position m hears sum_j w[m, j] v_j through an output layer, where v_j is linear in x_j and the
weights w[m, .] are not negative and of sum 1 over the positions that m sees. What w is made of is
all that the classes of this file differ in:

- `Attention`: of what m asks and what j offers (MAT, SrSv);
- `StaticTokenMixer`: of the two positions, learned (SrSv-mlp);
- `MeanTokenMixer`: nothing, all are heard alike (SrSv-gnn).

Shapes: B rows, N agents or positions, D width, H heads, L queries, S positions that are seen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.transformer.layers import GAIN, linear
from rllib_seqmarl.nets.transformer.sparse_attention import Heard
from rllib_seqmarl.nets.values.suffixes import Suffixes


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """bool [queries, keys]: which keys the LAST ``queries`` positions of ``keys`` may see."""
    ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=keys - queries)


class AbsorbedProjections(NamedTuple):
    """A mixing layer's linear maps, multiplied out so that nothing follows the weighted mean.

    Attributes:
        query: weight [H D, D] and bias [H D]: x -> for each head, the query times the key layer,
            so that its product with x_j itself is a score. None where nothing is asked.
        value: weight [H D, D] and bias [H D]: x -> for each head, its share of the output.
    """

    query: tuple[Tensor, Tensor] | None
    value: tuple[Tensor, Tensor]


class TokenMixer(nn.Module, ABC):
    """A layer through which positions hear of each other.

    What a position asks is its query, what it offers its message, both linear in x; the last D
    columns of a message are the value v.

    Args:
        width: D.
        heads: H, each of which mixes D / H columns of the value with weights of its own.
        query_size: columns of a query; 0 where nothing is asked.
        message_size: columns of a message.
    """

    def __init__(self, width: int, heads: int, query_size: int, message_size: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"embed_dim {width} is not divisible by num_heads {heads}.")
        self.width, self.heads = width, heads
        self.query_size, self.message_size = query_size, message_size
        self.in_projection = nn.Linear(width, query_size + message_size)
        for part in self.in_projection.weight.split(width):  # several layers, not one wide one
            nn.init.orthogonal_(part, gain=GAIN)
        nn.init.zeros_(self.in_projection.bias)
        self.out_projection = linear(width, width)

    # -- what differs ------------------------------------------------------------------------

    @abstractmethod
    def mix(self, query: Tensor, message: Tensor, causal: bool = True) -> Tensor:
        """What the last L of S positions hear, before the output layer.

        Args:
            query: [B, L, query_size].
            message: [B, S, message_size].
            causal: whether position m sees only positions up to m.

        Returns:
            [B, L, D].
        """

    @abstractmethod
    def weights(self, query: Tensor, message: Tensor, causal: bool = True) -> Tensor:
        """w of the last L of S positions, mean over heads: [B, L, S]; arguments as in `mix`."""

    @abstractmethod
    def branch_weights(
        self, query: Tensor | None, trunk: Tensor, own: Tensor, branches: Suffixes
    ) -> Tensor:
        """w of the rows of branches over the trunk and their own group, see `Suffixes`.

        Args:
            query: through the folded layer, [B, R, H D]; None where nothing is asked.
            trunk: x of the trunk, [B, N, D].
            own: x of the rows, [B, R, D].
            branches: which rows these are.

        Returns:
            [B or 1, C, G, N + G, H].
        """

    def heard_weights(self, query: Tensor, messages: Tensor, valid: Tensor) -> Tensor:
        """w of positions that hear K others each.

        Args:
            query: [B, L, query_size].
            messages: of those that each hears, [B, L, K, message_size].
            valid: bool [B, L, K], which of them are heard.

        Returns:
            [B, L, K, H].
        """
        raise NotImplementedError(f"{type(self).__name__} mixes all positions.")

    def symbol_scores(self, symbols: Tensor) -> Tensor | None:
        """How each of K symbols is scored by each, where the weights are the softmax of that.

        Args:
            symbols: [K, D].

        Returns:
            [K, H, K]; None where the weights depend on more.
        """
        return None

    # -- shared ------------------------------------------------------------------------------

    def project(self, x: Tensor) -> Tensor:
        """Query and message of ``x``, side by side: [..., D] -> [..., query + message]."""
        return self.in_projection(x)

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """What `project` put side by side, apart again."""
        query, message = projected.split((self.query_size, self.message_size), dim=-1)
        return query, message

    def project_query(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., query_size]."""
        layer, rows = self.in_projection, slice(None, self.query_size)
        return F.linear(x, layer.weight[rows], layer.bias[rows])

    def project_message(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., message_size]."""
        layer, rows = self.in_projection, slice(self.query_size, None)
        return F.linear(x, layer.weight[rows], layer.bias[rows])

    def mix_heard(self, query: Tensor, message: Tensor, heard: Heard) -> Tensor:
        """What L positions hear of some of S positions, before the output layer.

        Args:
            query: [B, L, query_size].
            message: [B, S, message_size].
            heard: whom each hears.

        Returns:
            [B, L, D].
        """
        messages = heard.gather(message)
        weights = self.heard_weights(query, messages, heard.valid)
        value = messages[..., -self.width :].unflatten(-1, (self.heads, -1))  # [B, L, K, H, D / H]
        return (weights.unsqueeze(-1) * value).sum(2).flatten(2)

    def attend(
        self, query: Tensor, message: Tensor, causal: bool, heard: Heard | None = None
    ) -> Tensor:
        """`mix`, or `mix_heard`, through the output layer: [B, L, D]."""
        if heard is None:
            return self.out_projection(self.mix(query, message, causal))
        return self.out_projection(self.mix_heard(query, message, heard))

    def forward(self, x: Tensor) -> Tensor:
        """Every position hears of all: [B, N, D] -> [B, N, D]."""
        return self.attend(*self.split(self.project(x)), causal=False)

    def fold(self) -> AbsorbedProjections:
        """The maps for passes over branches."""
        shape = (self.heads, -1, self.width)
        weight = self.in_projection.weight[-self.width :].view(shape)  # [H, D / H, D]
        bias = self.in_projection.bias[-self.width :].view(self.heads, -1, 1)
        out = self.out_projection.weight.view(self.width, self.heads, -1).transpose(0, 1)
        share = (out @ bias).squeeze(-1) + self.out_projection.bias / self.heads  # [H, D]
        return AbsorbedProjections(None, ((out @ weight).flatten(0, 1), share.flatten()))


class Attention(TokenMixer):
    """Multi-head scaled dot-product attention; query, key and value layers stored as one.

    A message is a key and a value, side by side.
    """

    def __init__(self, width: int, heads: int, positions: int | None = None) -> None:
        super().__init__(width, heads, query_size=width, message_size=2 * width)

    def mix(self, query: Tensor, message: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.mix`."""
        queries, keys = query.shape[1], message.shape[1]
        query = self._heads(query)
        key, value = (self._heads(part) for part in message.chunk(2, dim=-1))
        if not causal or queries == 1:
            mixed = F.scaled_dot_product_attention(query, key, value)
        elif queries == keys:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            mask = causal_mask(queries, keys, query.device)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2)

    def weights(self, query: Tensor, message: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.weights`."""
        queries, keys = query.shape[1], message.shape[1]
        key = self._heads(message[..., : self.width])
        scores = self._heads(query) @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
        if causal and queries > 1:
            mask = causal_mask(queries, keys, query.device)
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1).mean(1)  # [B, H, L, S] -> [B, L, S]

    def heard_weights(self, query: Tensor, messages: Tensor, valid: Tensor) -> Tensor:
        """See `TokenMixer.heard_weights`."""
        key = messages[..., : self.width].unflatten(-1, (self.heads, -1))  # [B, L, K, H, D / H]
        query = query.unflatten(-1, (self.heads, -1)).unsqueeze(2)
        scores = (query * key).sum(-1) / math.sqrt(key.shape[-1])
        return scores.masked_fill(~valid.unsqueeze(-1), float("-inf")).softmax(2)

    def fold(self) -> AbsorbedProjections:
        """See `TokenMixer.fold`. The key's bias adds the same to all scores: left out."""
        query, key, _ = self.in_projection.weight.view(3, self.heads, -1, self.width)
        bias = self.in_projection.bias[: self.width].view(self.heads, -1, 1)
        key = key.transpose(1, 2) / math.sqrt(key.shape[1])  # [H, D, D / H]
        return AbsorbedProjections(
            ((key @ query).flatten(0, 1), (key @ bias).flatten()), super().fold().value
        )

    def branch_weights(
        self, query: Tensor | None, trunk: Tensor, own: Tensor, branches: Suffixes
    ) -> Tensor:
        """See `TokenMixer.branch_weights`."""
        assert query is not None
        batch, _, width = trunk.shape
        groups, size = branches.shape
        to_trunk = query.view(batch, -1, width) @ trunk.transpose(1, 2)  # [B, R H, N]
        to_own = query.view(batch * groups, -1, width) @ own.view(batch * groups, size, width).mT
        shape = (batch, groups, size, self.heads, -1)
        scores = torch.cat((to_trunk.view(shape), to_own.view(shape)), dim=-1)
        bias = scores.new_zeros(branches.visible.shape)  # [B or 1, C, G, N + G]
        scores += bias.masked_fill_(~branches.visible, float("-inf")).unsqueeze(3)
        return scores.softmax(-1).transpose(-1, -2)

    def symbol_scores(self, symbols: Tensor) -> Tensor:
        """See `TokenMixer.symbol_scores`."""
        query = self.fold().query
        assert query is not None
        return F.linear(symbols, *query).unflatten(-1, (self.heads, -1)) @ symbols.T

    def _heads(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, H, N, D / H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class _FixedTokenMixer(TokenMixer):
    """Weights that do not depend on x. A message is a value, and nothing is asked."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, query_size=0, message_size=width)

    @abstractmethod
    def _weights(self, visible: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """w by position: bool [..., L, S], int [..., L] and int [..., S] -> [H, ..., L, S]."""

    def _by_position(self, queries: int, keys: int, causal: bool, device: torch.device) -> Tensor:
        """w of the last L of S positions: [H, L, S]."""
        if causal:
            visible = causal_mask(queries, keys, device)
        else:
            visible = torch.ones(queries, keys, dtype=torch.bool, device=device)
        positions = torch.arange(keys, device=device)
        return self._weights(visible, positions[keys - queries :], positions)

    def mix(self, query: Tensor, message: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.mix`."""
        queries, keys = query.shape[1], message.shape[1]
        weights = self._by_position(queries, keys, causal, message.device)
        value = message.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, S, D / H]
        return (weights @ value).transpose(1, 2).flatten(2)

    def weights(self, query: Tensor, message: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.weights`."""
        queries, keys = query.shape[1], message.shape[1]
        weights = self._by_position(queries, keys, causal, message.device)
        return weights.mean(0).expand(len(message), -1, -1)

    def branch_weights(
        self, query: Tensor | None, trunk: Tensor, own: Tensor, branches: Suffixes
    ) -> Tensor:
        """See `TokenMixer.branch_weights`."""
        weights = self._weights(branches.visible, branches.position, branches.key_position)
        return weights.movedim(0, -1)


class StaticTokenMixer(_FixedTokenMixer):
    """SrSv-mlp (SrSv paper, Fig. 6): a learned matrix over positions, as MLPs mix tokens.

    The weights are the softmax of a table of logits, for each head; they begin equal. The paper
    says that an MLP replaces the attention and not how: this keeps rows of sum 1, which eq. 6
    weights the values with. The table has a row per position, hence a fixed number of agents.

    Args:
        width: D.
        heads: H.
        positions: rows and columns of the table.
    """

    def __init__(self, width: int, heads: int, positions: int | None = None) -> None:
        super().__init__(width, heads)
        if positions is None:
            raise ValueError("StaticTokenMixer needs the number of positions.")
        self.logits = nn.Parameter(torch.zeros(heads, positions, positions))

    def mix(self, query: Tensor, message: Tensor, causal: bool = True) -> Tensor:
        """See `TokenMixer.mix`.

        Raises:
            UserError: not all positions are there, and yet all should be heard.
        """
        made_for, given = self.logits.shape[-1], message.shape[1]
        if not causal and given != made_for:
            raise UserError(
                f"network 'mlp' has learned how {made_for} agents are mixed and cannot run with "
                f"{given}: train with {given}, or use network 'transformer' or 'gnn'."
            )
        return super().mix(query, message, causal)

    def _weights(self, visible: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        logits = self.logits[:, queries.unsqueeze(-1), keys.unsqueeze(-2)]
        return logits.masked_fill(~visible, float("-inf")).softmax(-1)


class MeanTokenMixer(_FixedTokenMixer):
    """SrSv-gnn (SrSv paper, Fig. 6): a fully connected graph whose nodes hear the mean.

    In the decoder, the mean over predecessors and self.
    """

    def __init__(self, width: int, heads: int, positions: int | None = None) -> None:
        super().__init__(width, heads)

    def _weights(self, visible: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        seen = visible.to(self.out_projection.weight.dtype)
        return (seen / seen.sum(-1, keepdim=True)).unsqueeze(0)

    def heard_weights(self, query: Tensor, messages: Tensor, valid: Tensor) -> Tensor:
        """See `TokenMixer.heard_weights`."""
        seen = valid.to(messages.dtype)
        return (seen / seen.sum(-1, keepdim=True)).unsqueeze(-1)

    def symbol_scores(self, symbols: Tensor) -> Tensor:
        """See `TokenMixer.symbol_scores`."""
        return symbols.new_zeros(len(symbols), self.heads, len(symbols))
