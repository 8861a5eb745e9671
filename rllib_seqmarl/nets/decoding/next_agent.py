"""Decoding where the agents also say who decides next (AOAD-MAT): the same three ways.

The noise of the choices of a successor is drawn first too, so the order is as much a function of
the rows as the actions are, and the pair (order, actions) is a fixed point of the teacher-forced
pass. All noise belongs to the agent who decides and not to its position: an agent that a better
guess of the order moves keeps what it would do.

All take what `DecodeInputs` holds: as `decoding_methods`, but o_hat and offset in slots; then the
head that chooses, and its noise, or None for the most likely choices. All return the actions and
their parameters in decision order, the order, int [B, N], and the head's logits of the first
N - 1 positions, [B, N - 1, N].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rllib_seqmarl.nets.decoding.methods import PASS_OVERHEAD, Passes
from rllib_seqmarl.nets.distributions import UNAVAILABLE, ActionDistribution
from rllib_seqmarl.nets.orders.orders import NextAgent, ranks, to_order
from rllib_seqmarl.nets.transformer.kv_cache import ActionCache
from rllib_seqmarl.nets.transformer.model import ActionDecoder

Decisions = tuple[Tensor, Tensor, Tensor, Tensor]


class DecodeInputs(NamedTuple):
    """What a joint action and its order are a function of; everything in slots."""

    decoder: ActionDecoder
    distribution: ActionDistribution
    encoded: Tensor  # [B, N, D]
    offset: Tensor | None  # [B, N, W]
    next_agent: NextAgent
    noise: Tensor | None  # [B, N, N]

    def act(self, parameters: Tensor, agents: Tensor) -> Tensor:
        """Actions of these agents, int [B, L], from the head's output [B, L, A]."""
        offset = None if self.offset is None else to_order(self.offset, agents)
        return self.distribution.decide(parameters, offset)

    def judge(self, logits: Tensor, agents: Tensor) -> Tensor:
        """How much these agents, int [B, L], want each to be next: [B, L, N] -> [B, L, N]."""
        return logits if self.noise is None else logits + to_order(self.noise, agents)


def stepwise(*inputs: Any) -> Decisions:
    """N passes over all N positions, of each of which one row is used (Algorithm 1)."""
    team = DecodeInputs(*inputs)
    decoder, encoded = team.decoder, team.encoded
    batch, agents, _ = encoded.shape
    tokens = torch.cat([decoder.start_token(batch)] * agents, 1)  # the later ones to be written
    order = torch.arange(agents, device=encoded.device).repeat(batch, 1)
    order = _swap(order, 0, team.next_agent.first(encoded))
    actions, rows, choices = [], [], []
    for m in range(agents):
        decoded = decoder(tokens, to_order(encoded, order))[:, m : m + 1]
        agent = order[:, m : m + 1]
        rows.append(decoder.head(decoded))
        actions.append(team.act(rows[m], agent))
        if m + 1 < agents:
            tokens[:, m + 1 : m + 2] = decoder.as_tokens(actions[m])
            choices.append(team.next_agent.logits(decoded, encoded))  # [B, 1, N]
            scores = team.judge(choices[m], agent).squeeze(1)
            taken = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, : m + 1], True)
            order = _swap(order, m + 1, scores.masked_fill(taken, UNAVAILABLE).argmax(1))
    return torch.cat(actions, 1), torch.cat(rows, 1), order, _stack(choices, encoded)


def cached(*inputs: Any) -> Decisions:
    """N passes over one position each."""
    team = DecodeInputs(*inputs)
    batch, agents, _ = team.encoded.shape
    order = team.next_agent.first(team.encoded).repeat(1, agents)  # the later ones to be found
    cache = team.decoder.cache(team.encoded)
    actions, rows, choices = _one_by_one(team, cache, order, team.decoder.start_token(batch), 0)
    return actions, rows, order, choices


def _one_by_one(
    team: DecodeInputs, cache: ActionCache, order: Tensor, token: Tensor, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Actions, parameters and logits of the positions from ``start``, whose token is given.

    ``order`` is known up to ``start``; the rest is written into it.
    """
    batch, agents = order.shape
    actions, rows, choices = [], [], []
    taken = team.encoded.new_zeros(batch, agents)
    taken.scatter_(1, order[:, : start + 1], UNAVAILABLE)
    agent = order[:, start : start + 1]
    for m in range(start, agents):
        cache.place(agent, m)
        decoded = cache.extend(token, m)
        row = cache.head(decoded)
        chosen = team.act(row, agent)
        token = team.decoder.as_tokens(chosen)
        actions.append(chosen)
        rows.append(row)
        if m + 1 < agents:
            logits = team.next_agent.logits(decoded, team.encoded)
            scores = team.judge(logits, agent).squeeze(1)
            agent = (scores + taken).argmax(1, keepdim=True)
            taken.scatter_(1, agent, UNAVAILABLE)
            order[:, m + 1 : m + 2] = agent
            choices.append(logits)
    return torch.cat(actions, 1), torch.cat(rows, 1), _stack(choices, team.encoded)


def parallel(*inputs: Any) -> Decisions:
    """The fixed point, from the guess that every agent decides as if it were the first."""
    team = DecodeInputs(*inputs)
    decoder, distribution, encoded, offset, next_agent, _ = team
    batch, agents, _ = encoded.shape
    cache = decoder.cache(encoded)
    decoded = cache.first_rows(decoder.start_token(1))
    parameters = cache.head(decoded)  # in slots, like the actions
    actions = distribution.decide(parameters, offset)
    walk = _Walk(team, next_agent.logits(decoded, encoded))
    logits = encoded.new_empty(batch, agents - 1, agents)
    moved: Tensor | None = walk.order  # where the agents that are now at each position were
    passes = Passes(batch, agents, PASS_OVERHEAD.get(encoded.device.type, PASS_OVERHEAD["cuda"]))
    while True:
        if moved is not None:
            actions, parameters = to_order(actions, moved), to_order(parameters, moved)
            offset = None if offset is None else to_order(offset, moved)
            cache.place(walk.order[:, passes.start :], passes.start)
        start, stop = passes.start, passes.stop
        tokens = decoder.shift(actions)
        if passes.single:
            break
        window = slice(start, stop)
        decoded = cache.extend(tokens[:, window], start)
        new = cache.head(decoded)
        chosen = distribution.decide(new, None if offset is None else offset[:, window])
        changed = distribution.differs(chosen, actions[:, window])  # [B, L]
        parameters[:, window] = new
        if decoder.action.discrete:
            actions[:, window] = chosen
        else:
            # A settled action stays what its successors saw.
            actions[:, window] = torch.where(changed.unsqueeze(-1), chosen, actions[:, window])
        choices = next_agent.logits(decoded[:, : agents - 1 - start], encoded)
        logits[:, window] = choices
        turned, moved = walk.revise(choices, start)
        changed[:, : turned.shape[1]] |= turned
        positions = changed.any(0).nonzero().squeeze(-1)
        settled = int(positions[0]) + 1 if len(positions) else stop - start
        if start + settled == agents:
            return actions, parameters, walk.order, logits
        passes.after(settled, int(changed.sum()))
    start = passes.start
    rest = _one_by_one(team, cache, walk.order, tokens[:, start : start + 1], start)
    actions[:, start:], parameters[:, start:], logits[:, start:] = rest
    return actions, parameters, walk.order, logits


class _Walk:
    """The order that the choices of a successor make, as far as these are known.

    Args:
        team: whose order.
        logits: of every agent's choice, as if it were the first, [B, N, N].
    """

    def __init__(self, team: DecodeInputs, logits: Tensor) -> None:
        self.team = team
        # By the slot of who chooses.
        self.scores = logits if team.noise is None else logits + team.noise
        self.order = team.next_agent.first(team.encoded).repeat(1, logits.shape[1])
        self._go_on(0)

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
        scores = self.team.judge(logits, who)
        self.scores.scatter_(1, who.unsqueeze(2).expand_as(scores), scores)
        old = ranks(self.order)
        positions = torch.arange(start, stop, device=old.device).view(1, -1, 1)
        chosen = scores.masked_fill(old.unsqueeze(1) <= positions, UNAVAILABLE).argmax(2)
        turned = chosen != self.order[:, start + 1 : stop + 1]
        first = turned.any(0).nonzero()
        if not len(first):
            return turned, None
        self._go_on(start + int(first[0]))
        return turned, old.gather(1, self.order)

    def _go_on(self, position: int) -> None:
        """Follows the choices from this position, whose agent is known, to the end."""
        batch, agents = self.order.shape
        rows = self.scores.flatten(0, 1)  # [B N, N]
        base = torch.arange(batch, device=rows.device) * agents
        taken = rows.new_zeros(batch, agents)
        taken.scatter_(1, self.order[:, : position + 1], UNAVAILABLE)
        order = self.order.clone()
        agent = order[:, position]
        for m in range(position + 1, agents):
            agent = rows.index_select(0, base + agent).add_(taken).argmax(1)
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
