"""The three ways to decode N actions; `decoding` says what they are.

All take ``(decoder, distribution, encoded, offset)``: the causal decoder, what turns the head's
output into an action, o_hat in decision order [B, N, D], and what mask and noise do to the head's
output as one tensor [B, N, W] (`ActionDistribution.offset`). All return the actions, int [B, N] or
float [B, N, A], and the parameters of their distributions, [B, N, A]. Gradients are not kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rllib_seqmarl.nets.distributions import ActionDistribution
from rllib_seqmarl.nets.transformer.kv_cache import ActionCache
from rllib_seqmarl.nets.transformer.model import ActionDecoder

#: What a pass costs before its first position, in positions. A GPU computes many positions
#: in the time that it takes to launch a pass.
PASS_OVERHEAD = {"cpu": 64, "cuda": 16384}

#: Rows that have settled are dropped once the others are no more than this share: dropping
#: copies what is kept.
DROP = 0.75


def stepwise(
    decoder: ActionDecoder, distribution: ActionDistribution, encoded: Tensor, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """N passes over all N positions, of each of which one row is used."""
    batch, agents, _ = encoded.shape
    tokens = torch.cat([decoder.start_token(batch)] * agents, 1)  # the later ones to be written
    actions, rows = [], []
    for m in range(agents):
        row = decoder.head(decoder(tokens, encoded))[:, m : m + 1]
        chosen = distribution.decide(row, None if offset is None else offset[:, m : m + 1])
        if m + 1 < agents:
            tokens[:, m + 1 : m + 2] = decoder.as_tokens(chosen)
        actions.append(chosen)
        rows.append(row)
    return torch.cat(actions, 1), torch.cat(rows, 1)


def cached(
    decoder: ActionDecoder, distribution: ActionDistribution, encoded: Tensor, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """N passes over one position each."""
    cache = decoder.cache(encoded)
    return _one_by_one(decoder, distribution, cache, offset, decoder.start_token(len(encoded)), 0)


def _one_by_one(
    decoder: ActionDecoder,
    distribution: ActionDistribution,
    cache: ActionCache,
    offset: Tensor | None,
    token: Tensor,
    start: int,
) -> tuple[Tensor, Tensor]:
    """Actions and parameters of the positions from ``start``, whose token is given, to the last."""
    actions, rows = [], []
    agents = cache.encoded.shape[1]
    offsets = [None] * agents if offset is None else offset.split(1, dim=1)
    for m in range(start, agents):
        row = cache.head(cache.extend(token, m))
        chosen = distribution.decide(row, offsets[m])
        token = decoder.as_tokens(chosen)
        actions.append(chosen)
        rows.append(row)
    return torch.cat(actions, 1), torch.cat(rows, 1)


def parallel(
    decoder: ActionDecoder, distribution: ActionDistribution, encoded: Tensor, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The fixed point, from the guess that every agent decides as if it were the first."""
    batch, agents, _ = encoded.shape
    cache = decoder.cache(encoded)
    start_token = decoder.start_token(batch)
    parameters = cache.head(cache.first_rows(start_token[:1]))
    actions = distribution.decide(parameters, offset)
    if agents == 1:
        return actions, parameters
    tokens = torch.cat((start_token, decoder.as_tokens(actions[:, :-1])), 1)
    result = actions, parameters  # of all rows; those below are of the rows not yet settled
    rows: Tensor | None = None
    passes = Passes(batch, agents, PASS_OVERHEAD.get(encoded.device.type, PASS_OVERHEAD["cuda"]))
    while True:
        start, stop = passes.start, passes.stop
        if passes.single:
            rest = _one_by_one(
                decoder, distribution, cache, offset, tokens[:, start : start + 1], start
            )
            actions[:, start:], parameters[:, start:] = rest
            break
        window = slice(start, stop)
        new = cache.head(cache.extend(tokens[:, window], start))
        chosen = distribution.decide(new, None if offset is None else offset[:, window])
        changed = distribution.differs(chosen, actions[:, window])  # [B', L]
        parameters[:, window] = new
        if decoder.action.discrete:
            actions[:, window] = chosen
        else:
            # A settled action stays what its successors saw.
            actions[:, window] = torch.where(changed.unsqueeze(-1), chosen, actions[:, window])
        unsettled = changed.any(1).nonzero().squeeze(-1)
        positions = changed.any(0).nonzero().squeeze(-1)
        settled = int(positions[0]) + 1 if len(positions) else stop - start
        if start + settled == agents:
            break
        if stop == agents and len(unsettled) <= DROP * len(actions):
            if rows is None:
                result = actions, parameters
                rows = unsettled
            else:
                result[0][rows], result[1][rows] = actions, parameters
                rows = rows[unsettled]
            actions, parameters = actions[unsettled], parameters[unsettled]
            tokens = tokens[unsettled]
            offset = None if offset is None else offset[unsettled]
            cache.keep(unsettled)
            passes.batch = len(rows)
        passes.after(settled, int(changed.sum()))
        window = slice(start, min(stop, agents - 1))
        tokens[:, window.start + 1 : window.stop + 1] = decoder.as_tokens(actions[:, window])
    if rows is None:
        return actions, parameters
    result[0][rows], result[1][rows] = actions, parameters
    return result


class Passes:
    """Which positions the next pass is over: as many as pay, judged by the agents that settle.

    The unit of cost is one position of one row; a pass costs ``overhead`` more.

    Args:
        batch: rows.
        agents: positions.
        overhead: cost of a pass over nothing.
    """

    def __init__(self, batch: int, agents: int, overhead: int) -> None:
        self.batch, self.agents, self.overhead = batch, agents, overhead
        self.start = 0
        self.width = agents
        #: Whether to go on one position at a time.
        self.single = False
        self._full = True
        self._changed = batch * agents  # the first guess may be all wrong
        self._progress: float | None = None

    @property
    def stop(self) -> int:
        """The position behind the last of the next pass."""
        return min(self.start + self.width, self.agents)

    def after(self, settled: int, changed: int) -> None:
        """Plans the next pass.

        Args:
            settled: agents that the last pass settled in all rows; not yet all of them.
            changed: actions that it changed, over all rows.
        """
        width = self.stop - self.start
        self.start += settled
        remaining = self.agents - self.start
        progress = settled if self._progress is None else 0.5 * (self._progress + settled)
        self._progress = progress
        if self._full:
            shrink = changed / self._changed
            self._changed = changed
            passes = remaining / progress
            if shrink < 1.0 and changed:
                # As many passes as it takes until less than one action changes.
                passes = min(passes, 1.0 + math.log(changed) / -math.log(shrink))
            full = passes * self._cost(remaining)
            narrow = math.ceil(min(progress, remaining))
            if full > remaining / narrow * self._cost(narrow):
                self._full = False
                self.width = narrow
            return
        if settled == width:
            self.width = 2 * width
        else:
            self.width = 2 * math.ceil(progress)
        # A pass over two positions or more must settle more agents than it costs steps.
        self.single = progress * self._cost(1) < self._cost(self.width)

    def _cost(self, positions: float) -> float:
        return self.overhead + self.batch * positions
