"""PMAT's order: drawn from scores, before anybody decides."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from rllib_seqmarl.nets.distributions import gumbel
from rllib_seqmarl.nets.orders.base import (
    ChosenOrder,
    OrderEvaluation,
    Ordering,
    OrderInputs,
)
from rllib_seqmarl.nets.transformer.model import GAIN_BEFORE_GELU, linear


class PlackettLuce(ChosenOrder):
    """An order drawn from scores, one agent after another without replacement (PMAT, eq. 8).

    At every rank, an agent that remains is next with probability s_j / sum_remaining s, where
    s = 1 + 9 sigmoid(scorer(o_hat)) lies between 1 and 10 (the authors' code; the paper prints
    exp). Sorting log s + Gumbel noise in descending order draws from exactly that law.

    Args:
        width: D, also that of the scorer's hidden layers (64 in the authors' code).
        num_agents: see `DecisionOrder`.
        layers: hidden layers L.
        share_hidden: all hidden layers but the first are one and the same, as in the authors'
            code, where a list of one layer is multiplied.
    """

    learned_by = "PMAT"
    settings: ClassVar = {"ranking_layers": "layers", "share_hidden": "share_hidden"}

    def __init__(
        self,
        width: int,
        num_agents: int | None = None,
        layers: int = 2,
        share_hidden: bool = False,
    ) -> None:
        super().__init__(width, num_agents)
        self.norm = nn.LayerNorm(width)
        self.repeats = layers - 1 if share_hidden else 1
        distinct = min(layers, 2) if share_hidden else layers
        self.hidden = nn.ModuleList(
            nn.Sequential(linear(width, width, GAIN_BEFORE_GELU), nn.GELU(), nn.LayerNorm(width))
            for _ in range(distinct)
        )
        self.out = linear(width, 1)

    def scores(self, encoded: Tensor) -> Tensor:
        """s in (1, 10): o_hat [B, N, D] -> [B, N]."""
        x = self.norm(encoded)
        for index, layer in enumerate(self.hidden):
            for _ in range(self.repeats if index else 1):
                x = layer(x)
        return 1.0 + 9.0 * torch.sigmoid(self.out(x).squeeze(-1))

    def choose(self, inputs: OrderInputs) -> Ordering:
        """See `ChosenOrder`; the most likely order is by descending score."""
        log_scores = self.scores(inputs.encoded).log()
        keys = log_scores
        if not inputs.deterministic:
            noise = gumbel(tuple(keys.shape), keys.device, inputs.generator)
            keys = keys + noise.to(keys.dtype)
        if torch.compiler.is_compiling():  # programs have no stable sorting
            order = keys.topk(keys.shape[1], dim=1).indices
        else:
            order = keys.argsort(dim=1, descending=True, stable=True)
        return Ordering(order, plackett_luce_log_prob(log_scores.gather(1, order)))

    def evaluate(self, encoded: Tensor, decoded: Tensor, order: Tensor) -> OrderEvaluation:
        """See `DecisionOrder`; log-prob and entropy are of the whole order, [B]."""
        scores = self.scores(encoded)
        ranked = scores.log().gather(1, order)
        return OrderEvaluation(
            plackett_luce_log_prob(ranked), plackett_luce_entropy(ranked), scores
        )


def plackett_luce_log_prob(ranked: Tensor) -> Tensor:
    """log P of an order: sum_m [log s_m - log sum_{j >= m} s_j].

    Args:
        ranked: log s in decision order, [B, N].

    Returns:
        [B].
    """
    remaining = ranked.flip(1).logcumsumexp(1).flip(1)
    return (ranked - remaining).sum(1)


def plackett_luce_entropy(ranked: Tensor) -> Tensor:
    """Sum of the entropies of the N choices, each given those made: its mean over orders is exact.

    Args:
        ranked: log s in decision order, [B, N].

    Returns:
        [B], in nats.
    """
    remaining = ranked.flip(1).logcumsumexp(1).flip(1)  # log of the normaliser of each choice
    weights = ranked.exp()
    mean = (weights * ranked).flip(1).cumsum(1).flip(1) / weights.flip(1).cumsum(1).flip(1)
    return (remaining - mean).sum(1)
