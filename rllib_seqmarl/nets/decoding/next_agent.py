"""Decoding where the agents also say who decides next (AOAD-MAT): the same three ways.

The noise of the choices of a successor is drawn first too, so the order is as much a function of
the decoder's output as the actions are, and the pair (order, actions) is a fixed point of the
teacher-forced pass. All noise belongs to the agent who decides and not to its position: an agent
that a better guess of the order moves keeps what it would do.

All return `Decisions`, in decision order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rllib_seqmarl.matmul import multiply_few_rows
from rllib_seqmarl.nets.decoding.methods import DecodeInputs, Passes
from rllib_seqmarl.nets.distributions import UNAVAILABLE
from rllib_seqmarl.nets.orders.base import ranks, to_order
from rllib_seqmarl.nets.orders.next_agent import NextAgent
from rllib_seqmarl.nets.transformer.kv_cache import ActionCache


class Decisions(NamedTuple):
    """Actions and the order in which they were decided."""

    actions: Tensor  # int [B, N] or float [B, N, A]
    parameters: Tensor  # of their distributions, [B, N, A]
    order: Tensor  # int [B, N]
    logits: Tensor  # of the first N - 1 positions' choices of a successor, [B, N - 1, N]


@dataclass(frozen=True, kw_only=True)
class NextAgentInputs(DecodeInputs):
    """What a joint action and its order are a function of; everything in slots.

    Attributes:
        next_agent: the head that chooses who decides next.
        choice_noise: its noise, [B, N, N]; None for the most likely choices.
    """

    next_agent: NextAgent
    choice_noise: Tensor | None = None

    def decide(self, parameters: Tensor, agents: Tensor) -> Tensor:
        """Actions of these agents, int [B, L], from the head's output [B, L, A]."""
        offset = None if self.offset is None else to_order(self.offset, agents)
        return self.distribution.decide(parameters, offset)

    def choice_scores(self, logits: Tensor, agents: Tensor) -> Tensor:
        """Of each agent as the successor of these, int [B, L]: logits [B, L, N] -> [B, L, N]."""
        if self.choice_noise is None:
            return logits
        return logits + to_order(self.choice_noise, agents)


def stepwise(inputs: NextAgentInputs) -> Decisions:
    """N passes over all N positions, of each of which one position is used (Algorithm 1)."""
    decoder, encoded = inputs.decoder, inputs.encoded
    batch, agents, _ = encoded.shape
    tokens = decoder.start_tokens(batch, agents)  # the later ones are written on the way
    order = torch.arange(agents, device=encoded.device).repeat(batch, 1)
    order = _swap(order, 0, inputs.next_agent.first(encoded))
    actions, parameters, choices = [], [], []
    for m in range(agents):
        decoded = decoder(tokens, to_order(encoded, order)).output[:, m : m + 1]
        agent = order[:, m : m + 1]
        parameters.append(decoder.head(decoded))
        actions.append(inputs.decide(parameters[m], agent))
        if m + 1 < agents:
            tokens[:, m + 1 : m + 2] = decoder.as_tokens(actions[m])
            choices.append(inputs.next_agent.logits(decoded, encoded))  # [B, 1, N]
            scores = inputs.choice_scores(choices[m], agent).squeeze(1)
            taken = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, : m + 1], True)
            order = _swap(order, m + 1, scores.masked_fill(taken, UNAVAILABLE).argmax(1))
    return Decisions(
        torch.cat(actions, 1), torch.cat(parameters, 1), order, _stack(choices, encoded)
    )


def cached(inputs: NextAgentInputs) -> Decisions:
    """N passes over one position each."""
    batch, agents, _ = inputs.encoded.shape
    order = inputs.next_agent.first(inputs.encoded).repeat(1, agents)  # the later ones to be found
    cache = inputs.cache()
    return _one_by_one(inputs, cache, order, inputs.decoder.start_tokens(batch), 0)


def _one_by_one(
    inputs: NextAgentInputs, cache: ActionCache, order: Tensor, token: Tensor, start: int
) -> Decisions:
    """Decisions of the positions from ``start``, whose token is given, and the whole order.

    ``order``, int [B, N], is known up to ``start``.
    """
    batch, agents = order.shape
    score = inputs.next_agent.scorer(inputs.encoded)
    actions, parameters, choices = [], [], []
    taken = inputs.encoded.new_zeros(batch, 1, agents)
    taken.scatter_(2, order[:, : start + 1].unsqueeze(1), UNAVAILABLE)
    # What an agent's two decisions add to the heads' outputs, side by side: looked up at once.
    given = [part for part in (inputs.offset, inputs.choice_noise) if part is not None]
    added = torch.cat(given, 2) if given else None
    offset: Tensor | None = None
    agent = order[:, start : start + 1]
    decided = [order[:, : start + 1]]
    with multiply_few_rows(batch):
        for m in range(start, agents):
            cache.place(agent, m)
            decoded = cache.extend(token, m)
            own = cache.head(decoded)
            candidates = taken
            if added is not None:
                parts = to_order(added, agent).split([part.shape[2] for part in given], dim=2)
                offset = parts[0] if inputs.offset is not None else None
                candidates = taken if inputs.choice_noise is None else taken + parts[-1]
            chosen = inputs.distribution.decide(own, offset)
            token = inputs.decoder.as_tokens(chosen)
            actions.append(chosen)
            parameters.append(own)
            if m + 1 < agents:
                logits = score(decoded)
                agent = (logits + candidates).argmax(2)
                taken.scatter_(2, agent.unsqueeze(1), UNAVAILABLE)
                decided.append(agent)
                choices.append(logits)
    return Decisions(
        torch.cat(actions, 1),
        torch.cat(parameters, 1),
        torch.cat(decided, 1),
        _stack(choices, inputs.encoded),
    )


def parallel(inputs: NextAgentInputs) -> Decisions:
    """The fixed point, from the guess that every agent decides as if it were the first."""
    decoder, distribution, encoded = inputs.decoder, inputs.distribution, inputs.encoded
    offset, score = inputs.offset, inputs.next_agent.scorer(encoded)
    batch, agents, _ = encoded.shape
    cache = inputs.cache()
    decoded = cache.as_first(decoder.start_tokens(1))
    parameters = cache.head(decoded)  # in slots, like the actions
    actions = distribution.decide(parameters, offset)
    search = _OrderSearch(inputs, score(decoded))
    logits = encoded.new_empty(batch, agents - 1, agents)
    moved: Tensor | None = search.order  # where the agents that are now at each position were
    passes = Passes(batch, agents, encoded.device, decoder.action.num_real == 0)
    while True:
        if moved is not None:
            actions, parameters = to_order(actions, moved), to_order(parameters, moved)
            offset = None if offset is None else to_order(offset, moved)
            cache.place(search.order[:, passes.start :], passes.start)
        start, stop = passes.start, passes.stop
        tokens = decoder.shift(actions)
        if passes.single:
            break
        window = slice(start, stop)
        decoded = cache.extend(tokens[:, window], start)
        new = cache.head(decoded)
        chosen = distribution.decide(new, None if offset is None else offset[:, window])
        distance = distribution.distance(chosen, actions[:, window])  # [B, L]
        changed = distance > 1.0
        parameters[:, window] = new
        if decoder.action.discrete:
            actions[:, window] = chosen
        else:
            # A settled action stays what its successors saw.
            actions[:, window] = torch.where(changed.unsqueeze(-1), chosen, actions[:, window])
        choices = score(decoded[:, : agents - 1 - start])
        logits[:, window] = choices
        turned, moved = search.revise(choices, start)
        changed[:, : turned.shape[1]] |= turned
        positions = changed.any(0).nonzero().squeeze(-1)
        settled = int(positions[0]) + 1 if len(positions) else stop - start
        if start + settled == agents:
            return Decisions(actions, parameters, search.order, logits)
        passes.after(settled, distance, changed)
    start = passes.start
    rest = _one_by_one(inputs, cache, search.order, tokens[:, start : start + 1], start)
    actions[:, start:], parameters[:, start:] = rest.actions, rest.parameters
    logits[:, start:] = rest.logits
    return Decisions(actions, parameters, rest.order, logits)


class _OrderSearch:
    """The order that the choices of a successor make, as far as these are known.

    Args:
        inputs: of the decoding.
        logits: of every agent's choice, as if it were the first, [B, N, N].
    """

    def __init__(self, inputs: NextAgentInputs, logits: Tensor) -> None:
        self.inputs = inputs
        # By the slot of who chooses.
        self.scores = logits if inputs.choice_noise is None else logits + inputs.choice_noise
        self.order = inputs.next_agent.first(inputs.encoded).repeat(1, logits.shape[1])
        self._follow_choices(0)

    def revise(self, logits: Tensor, start: int) -> tuple[Tensor, Tensor | None]:
        """Takes over better logits of the positions from ``start``.

        Args:
            logits: [B, L, N].
            start: the first position that they are of.

        Returns:
            bool [B, L], which agents now choose another successor; and where the agents that are
            now at each position were, int [B, N], or None where nobody moved.
        """
        stop = start + logits.shape[1]
        who = self.order[:, start:stop]
        scores = self.inputs.choice_scores(logits, who)
        self.scores.scatter_(1, who.unsqueeze(2).expand_as(scores), scores)
        old = ranks(self.order)
        positions = torch.arange(start, stop, device=old.device).view(1, -1, 1)
        chosen = scores.masked_fill(old.unsqueeze(1) <= positions, UNAVAILABLE).argmax(2)
        turned = chosen != self.order[:, start + 1 : stop + 1]
        first = turned.any(0).nonzero()
        if not len(first):
            return turned, None
        self._follow_choices(start + int(first[0]))
        return turned, old.gather(1, self.order)

    def _follow_choices(self, position: int) -> None:
        """Follows the choices from this position, whose agent is known, to the end."""
        batch, agents = self.order.shape
        scores = self.scores.flatten(0, 1)  # [B N, N]
        base = torch.arange(batch, device=scores.device) * agents
        taken = scores.new_zeros(batch, agents)
        taken.scatter_(1, self.order[:, : position + 1], UNAVAILABLE)
        order = self.order.clone()
        agent = order[:, position]
        for m in range(position + 1, agents):
            agent = scores.index_select(0, base + agent).add_(taken).argmax(1)
            taken.scatter_(1, agent.unsqueeze(1), UNAVAILABLE)
            order[:, m] = agent
        self.order = order


def _swap(order: Tensor, position: int, agent: Tensor) -> Tensor:
    """Puts ``agent``, int [B], at this position, and who was there where it came from."""
    agent = agent.view(-1, 1)
    swapped = torch.where(order == agent, order[:, position : position + 1], order)
    swapped[:, position : position + 1] = agent
    return swapped


def _stack(choices: list[Tensor], encoded: Tensor) -> Tensor:
    """Logits of single positions side by side, [B, L, N]; a single agent chooses nobody."""
    batch, agents, _ = encoded.shape
    return torch.cat(choices, 1) if choices else encoded.new_empty(batch, 0, agents)
