"""Decision orders: who decides when.

An order is int [B, N]; ``order[b, m]`` is the slot of the agent that decides m-th. It is stored
with the step that used it, and training evaluates the actions in that same order. ``None`` stands
for the index order, which needs no gathering.

Some orders are given (index, reverse, random), one is drawn from scores before anybody decides
(`PlackettLuce`), and one is found by the decoder while the agents decide (`NextAgent`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.distributions import gumbel, masked_logits
from rllib_seqmarl.nets.transformer.model import GAIN_BEFORE_GELU, linear
from rllib_seqmarl.nets.transformer.model import head as output_head
from rllib_seqmarl.nets.transformer.sparse_attention import OrderedNeighbours

#: How often `RandomOrder` draws a new order.
GRANULARITIES = ("step", "episode")

#: What `NextAgent` reads its choice from.
NEXT_AGENT_HEADS = ("mlp", "pointer")


class Ordering(NamedTuple):
    """An order, and how likely it was where it is learned."""

    order: Tensor | None  # int [B, N]; None is the index order
    log_prob: Tensor | None  # [B], of the whole order


class OrderEvaluation(NamedTuple):
    """What the learner needs of an order that was used."""

    log_prob: Tensor  # [B], of the whole order, or [B, N], of each agent's choice, in slots
    entropy: Tensor  # likewise
    scores: Tensor | None = None  # [B, N], what the order was drawn from, where there is such


class DecisionOrder(nn.Module):
    """Who decides when.

    Args:
        width: D, of o_hat and of the decoder.
        num_agents: N; None where any number may come.
    """

    def __init__(self, width: int, num_agents: int | None = None) -> None:
        super().__init__()

    def evaluate(self, encoded: Tensor, decoded: Tensor, order: Tensor) -> OrderEvaluation | None:
        """How likely an order is now; None where orders are not learned.

        Args:
            encoded: o_hat in slots, [B, N, D].
            decoded: the decoder's output in decision order, [B, N, D].
            order: that was used, int [B, N].
        """
        return None


class ChosenOrder(DecisionOrder, ABC):
    """An order that is known before anybody decides."""

    #: Whether the order of a step is that of the step before, until the episode ends.
    kept = False

    @abstractmethod
    def choose(
        self,
        encoded: Tensor,
        deterministic: bool,
        generator: torch.Generator | None,
        previous: Tensor | None = None,
    ) -> Ordering:
        """The order of one step.

        Args:
            encoded: o_hat in slots, [B, N, D].
            deterministic: the most likely order, where it is learned.
            generator: source of the noise; torch's global one without it.
            previous: the order of the step before, int [B, N], and -1 in the rows of teams that
                are at their first; None where all are.
        """


class IndexOrder(ChosenOrder):
    """Agents decide by their slot (MAT)."""

    def choose(
        self,
        encoded: Tensor,
        deterministic: bool,
        generator: torch.Generator | None,
        previous: Tensor | None = None,
    ) -> Ordering:
        """See `ChosenOrder`."""
        return Ordering(None, None)


class ReverseOrder(ChosenOrder):
    """The last slot decides first ("inverse" in the AOAD-MAT paper, Fig. 8)."""

    def choose(
        self,
        encoded: Tensor,
        deterministic: bool,
        generator: torch.Generator | None,
        previous: Tensor | None = None,
    ) -> Ordering:
        """See `ChosenOrder`."""
        batch, agents, _ = encoded.shape
        order = torch.arange(agents - 1, -1, -1, device=encoded.device)
        return Ordering(order.expand(batch, agents), None)


class RandomOrder(ChosenOrder):
    """A uniform order (rMAT); its probability is constant and cancels.

    Args:
        width: see `DecisionOrder`.
        num_agents: likewise.
        granularity: a new order at every ``step`` (rMAT of the PMAT paper, "St Shuffle" of the
            AOAD-MAT paper), or one for each ``episode`` (MAT's code, "Ep Shuffle").
    """

    def __init__(
        self, width: int, num_agents: int | None = None, granularity: str = "step"
    ) -> None:
        super().__init__(width, num_agents)
        self.kept = granularity == "episode"

    def choose(
        self,
        encoded: Tensor,
        deterministic: bool,
        generator: torch.Generator | None,
        previous: Tensor | None = None,
    ) -> Ordering:
        """See `ChosenOrder`; random in evaluation too, as there is no best order."""
        source = encoded.device if generator is None else generator.device
        keys = torch.rand(encoded.shape[:2], generator=generator, device=source)
        order = keys.argsort(dim=1).to(encoded.device)
        if self.kept and previous is not None:
            order = torch.where(previous >= 0, previous, order)
        return Ordering(order, None)


class PlackettLuce(ChosenOrder):
    """PMAT: an order drawn from scores, one agent after another without replacement.

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

    def choose(
        self,
        encoded: Tensor,
        deterministic: bool,
        generator: torch.Generator | None,
        previous: Tensor | None = None,
    ) -> Ordering:
        """See `ChosenOrder`; the most likely order is by descending score."""
        log_scores = self.scores(encoded).log()
        keys = log_scores
        if not deterministic:
            keys = keys + gumbel(tuple(keys.shape), keys.device, generator).to(keys.dtype)
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


class NextAgent(DecisionOrder):
    """AOAD-MAT: whoever decides also says who decides next, from the same decoder row.

    The row of position m has seen the actions of the agents before it and not the action that is
    chosen on it, so an agent's action and its choice of a successor are independent given them.
    The decoder finds the order while it decodes (`decoding_next_agent`).

    Args:
        width: D.
        num_agents: N, the outputs of the ``mlp``.
        head: ``mlp`` has an output per agent slot, with the shape of the action head; ``pointer``
            compares the row with every agent's o_hat, for any N: <W row, o_hat_j> / sqrt(D).
        first_agent: the slot that decides first.
    """

    def __init__(
        self,
        width: int,
        num_agents: int | None = None,
        head: str = "mlp",
        first_agent: int = 0,
    ) -> None:
        super().__init__(width, num_agents)
        self.first_agent = first_agent
        self.pointer = head == "pointer"
        if self.pointer:
            self.out: nn.Module = linear(width, width)
        elif num_agents is None:
            raise ValueError("An mlp that says who decides next needs the number of agents.")
        else:
            self.out = output_head(width, num_agents)

    def noise(self, encoded: Tensor, generator: torch.Generator | None) -> Tensor:
        """Gumbel noise [B, N, N]: of each agent's choice, for every candidate."""
        batch, agents, _ = encoded.shape
        return gumbel((batch, agents, agents), encoded.device, generator).to(encoded.dtype)

    def first(self, encoded: Tensor) -> Tensor:
        """The agents that decide first, int [B, 1].

        Raises:
            UserError: ``first_agent`` is none of the N agents of o_hat [B, N, D].
        """
        batch, agents, _ = encoded.shape
        if self.first_agent >= agents:
            raise UserError(
                f"first_agent is {self.first_agent}, and the {agents} agents count from 0."
            )
        return torch.full((batch, 1), self.first_agent, device=encoded.device)

    def logits(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """Of every agent to be the next one.

        Args:
            decoded: rows of the decoder, [B, L, D].
            encoded: o_hat in slots, [B, N, D].

        Returns:
            [B, L, N], candidates in slots.
        """
        out = self.out(decoded)
        if not self.pointer:
            return out
        return out @ encoded.transpose(1, 2) / math.sqrt(encoded.shape[-1])

    def evaluate(self, encoded: Tensor, decoded: Tensor, order: Tensor) -> OrderEvaluation:
        """See `DecisionOrder`; log-prob and entropy are those of each agent's choice, [B, N]."""
        logits = self.logits(decoded[:, :-1], encoded)
        log_prob, entropy = next_agent_log_prob(logits, order)
        return OrderEvaluation(to_slots(log_prob, order), to_slots(entropy, order))


def next_agent_log_prob(logits: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of the choice of a successor among the agents that are left.

    Args:
        logits: of the first N - 1 positions, [B, N - 1, N].
        order: int [B, N].

    Returns:
        Both [B, N] in decision order; 0 for the last agent, who chooses nobody.
    """
    decided = ranks(order).unsqueeze(1)  # [B, 1, N]: when each agent decides
    positions = torch.arange(order.shape[1] - 1, device=order.device).view(1, -1, 1)
    log_probs = masked_logits(logits, decided > positions).log_softmax(-1)
    log_prob = log_probs.gather(2, order[:, 1:].unsqueeze(2)).squeeze(2)
    entropy = -(log_probs.exp() * log_probs).sum(2)
    return F.pad(log_prob, (0, 1)), F.pad(entropy, (0, 1))


#: Name -> class of the order.
ORDERS: dict[str, type[DecisionOrder]] = {
    "index": IndexOrder,
    "reverse": ReverseOrder,
    "random": RandomOrder,
    "plackett_luce": PlackettLuce,
    "next_agent": NextAgent,
}


def ranks(order: Tensor) -> Tensor:
    """When each agent decides, int [B, N]: the inverse permutation."""
    positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, positions)


def neighbours_in_order(neighbours: Tensor, order: Tensor | None) -> OrderedNeighbours:
    """Neighbours by when they decide, from int [B, N, K] by slots, -1 where there are fewer."""
    neighbours = neighbours.long()
    if order is None:
        return OrderedNeighbours(neighbours)
    batch, agents, count = neighbours.shape
    absent = neighbours < 0
    when = ranks(order).gather(1, neighbours.masked_fill(absent, 0).flatten(1))
    when = when.view(batch, agents, count).masked_fill(absent, -1)
    return OrderedNeighbours(to_order(when, order))


def to_order(x: Tensor, order: Tensor | None) -> Tensor:
    """Agent slots -> decision order: [B, N, ...] -> [B, L, ...], for an order int [B, L]."""
    if order is None:
        return x
    first_row = torch.arange(len(x), device=x.device).mul_(x.shape[1]).unsqueeze(1)
    rows = (order + first_row).flatten()  # whole rows are copied faster than element by element
    return x.flatten(0, 1).index_select(0, rows).unflatten(0, order.shape)


def to_slots(x: Tensor, order: Tensor | None) -> Tensor:
    """Decision order -> agent slots, the inverse of `to_order`."""
    if order is None:
        return x
    return torch.empty_like(x).scatter(1, _expand(order, x), x)


def _expand(order: Tensor, x: Tensor) -> Tensor:
    index = order.view(*order.shape, *(1 for _ in x.shape[2:]))
    return index.expand(*order.shape, *x.shape[2:])
