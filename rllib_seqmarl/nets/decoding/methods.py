"""Three ways to decode N actions, for an order that is known; `decode` says what they are.

All return the actions, int [B, N] or float [B, N, A], and the parameters of their distributions,
[B, N, A], in decision order. Gradients are not kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rllib_seqmarl.matmul import multiply_few_rows
from rllib_seqmarl.nets.distributions import TOLERANCE, ActionDistribution
from rllib_seqmarl.nets.transformer.kv_cache import ActionCache, action_cache
from rllib_seqmarl.nets.transformer.model import ActionDecoder
from rllib_seqmarl.nets.transformer.sparse_attention import OrderedNeighbours

#: What a pass costs before its first position, in positions. A GPU computes many positions
#: in the time that it takes to launch a pass.
PASS_OVERHEAD = {"cpu": 40, "cuda": 16384}

#: The same of a step over one position, whose action need not be compared: its share of that.
STEP_OVERHEAD = 0.6

#: Passes in which a position of a window settles: at the least, and what windows are made for.
DISCRETE, CONTINUOUS = (1.0, 2.0), (2.5, 6.0)

#: A window that is likely to be reached, to judge what windows may cost.
WIDE = 32

#: Weight of the last pass in the mean of agents that settle per cost.
MEMORY = 0.15

#: Batch rows that have settled are dropped once the others are no more than this share: dropping
#: copies what is kept.
DROP = 0.75


@dataclass(frozen=True)
class DecodeInputs:
    """What a joint action is a function of.

    Attributes:
        decoder: the causal decoder.
        distribution: what turns the head's output into an action.
        encoded: o_hat in decision order, [B, N, D]; in slots, like ``offset``, where the order is
            found while agents decide.
        offset: what mask and noise do to the head's output (`ActionDistribution.offset`),
            [B, N, W]; None: nothing.
        neighbours: whom each agent attends to; None: all.
    """

    decoder: ActionDecoder
    distribution: ActionDistribution
    encoded: Tensor
    offset: Tensor | None
    neighbours: OrderedNeighbours | None = None

    def cache(self) -> ActionCache:
        """For passes over ``encoded``."""
        return action_cache(self.decoder, self.encoded, self.neighbours)


def stepwise(inputs: DecodeInputs) -> tuple[Tensor, Tensor]:
    """N passes over all N positions, of each of which one position is used."""
    decoder, distribution, encoded = inputs.decoder, inputs.distribution, inputs.encoded
    batch, agents, _ = encoded.shape
    tokens = decoder.start_tokens(batch, agents)  # the later ones are written on the way
    actions, parameters = [], []
    for m in range(agents):
        output = decoder(tokens, encoded, inputs.neighbours).output
        own = decoder.head(output)[:, m : m + 1]
        offset = None if inputs.offset is None else inputs.offset[:, m : m + 1]
        chosen = distribution.decide(own, offset)
        if m + 1 < agents:
            tokens[:, m + 1 : m + 2] = decoder.as_tokens(chosen)
        actions.append(chosen)
        parameters.append(own)
    return torch.cat(actions, 1), torch.cat(parameters, 1)


def cached(inputs: DecodeInputs) -> tuple[Tensor, Tensor]:
    """N passes over one position each."""
    token = inputs.decoder.start_tokens(len(inputs.encoded))
    return _one_by_one(inputs, inputs.cache(), inputs.offset, token, 0)


def _one_by_one(
    inputs: DecodeInputs, cache: ActionCache, offset: Tensor | None, token: Tensor, start: int
) -> tuple[Tensor, Tensor]:
    """Actions and parameters of the positions from ``start``, whose token is given, to the last."""
    actions, parameters = [], []
    agents = cache.encoded.shape[1]
    offsets = [None] * agents if offset is None else offset.split(1, dim=1)
    with multiply_few_rows(len(token)):
        for m in range(start, agents):
            own = cache.head(cache.extend(token, m))
            chosen = inputs.distribution.decide(own, offsets[m])
            token = inputs.decoder.as_tokens(chosen)
            actions.append(chosen)
            parameters.append(own)
    return torch.cat(actions, 1), torch.cat(parameters, 1)


def parallel(inputs: DecodeInputs) -> tuple[Tensor, Tensor]:
    """The fixed point, from the guess that every agent decides as if it were the first."""
    decoder, distribution, encoded = inputs.decoder, inputs.distribution, inputs.encoded
    offset = inputs.offset
    batch, agents, _ = encoded.shape
    cache = inputs.cache()
    start_tokens = decoder.start_tokens(batch)
    parameters = cache.head(cache.as_first(start_tokens[:1]))
    actions = distribution.decide(parameters, offset)
    if agents == 1:
        return actions, parameters
    tokens = torch.cat((start_tokens, decoder.as_tokens(actions[:, :-1])), 1)
    result = actions, parameters  # of all batch rows; those below are of the rows not yet settled
    rows: Tensor | None = None
    passes = Passes(batch, agents, encoded.device, decoder.action.num_real == 0)
    while True:
        start, stop = passes.start, passes.stop
        if passes.single:
            rest = _one_by_one(inputs, cache, offset, tokens[:, start : start + 1], start)
            actions[:, start:], parameters[:, start:] = rest
            break
        window = slice(start, stop)
        with multiply_few_rows(len(tokens) * (stop - start)):
            new = cache.head(cache.extend(tokens[:, window], start))
        chosen = distribution.decide(new, None if offset is None else offset[:, window])
        distance = distribution.distance(chosen, actions[:, window])  # [B', L]
        changed = distance > 1.0
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
        passes.after(settled, distance, changed)
        window = slice(start, min(stop, agents - 1))
        tokens[:, window.start + 1 : window.stop + 1] = decoder.as_tokens(actions[:, window])
    if rows is None:
        return actions, parameters
    result[0][rows], result[1][rows] = actions, parameters
    return result


class Passes:
    """Which positions the next pass is over: as many as pay, by the agents that settle.

    The unit of cost is one position of one batch row. Passes begin with all positions that have not
    settled. Where that would take too many, they go on over a window, as wide as settles in a few
    passes and moved on after each, and where even a window does not pay, position by position.

    Args:
        batch: batch rows.
        agents: positions.
        device: where passes are computed.
        discrete: whether actions hold no real number.
    """

    def __init__(self, batch: int, agents: int, device: torch.device, discrete: bool) -> None:
        self.batch, self.agents, self.discrete = batch, agents, discrete
        self.overhead = PASS_OVERHEAD.get(device.type, PASS_OVERHEAD["cuda"])
        self.patience = DISCRETE if discrete else CONTINUOUS
        self.start = 0
        self.width = agents
        #: Whether to go on one position at a time.
        self.single = False
        self._full = True
        # The first guess may be all wrong, by a standard deviation.
        self._error = float(batch * agents) if discrete else 1.0 / TOLERANCE
        self._progress = 0.0
        self._efficiency = 0.0

    @property
    def stop(self) -> int:
        """The position behind the last of the next pass."""
        return min(self.start + self.width, self.agents)

    def after(self, settled: int, distance: Tensor, changed: Tensor) -> None:
        """Plans the next pass.

        Args:
            settled: agents that the last pass settled in all batch rows; not yet all of them.
            distance: of actions from those before the pass, [B, L], see `ActionDistribution`.
            changed: bool [B, L], whose decisions it changed.
        """
        width = self.stop - self.start
        cost = self.overhead + self.batch * width
        step = STEP_OVERHEAD * self.overhead + self.batch  # of one position alone
        self.start += settled
        remaining = self.agents - self.start
        least, most = self.patience
        if self._full:
            error = float(changed.sum() if self.discrete else distance.max())
            shrink, self._error = error / self._error, error
            passes = float(remaining)
            if shrink < 1.0:
                # As many as it takes until less than one action changes, or none by much.
                passes = min(passes, max(1.0, math.log(error) / -math.log(shrink)))
            others = remaining * min(step, least * (self.batch + self.overhead / WIDE))
            if passes * (self.overhead + self.batch * remaining) <= others:
                return
            self._full = False
            # As good as it may become: fewer agents settle in a pass at the start, where each
            # depends on few others, and on each of them more.
            self._efficiency = 1.0 / (least * self.batch)
            self._progress = settled
        else:
            self._efficiency += MEMORY * (settled / cost - self._efficiency)
            self._progress += 0.5 * (settled - self._progress)
        self.width = math.ceil(most * self._progress) if settled < width else 2 * width
        self.single = self._efficiency * step < 1.0
