"""Decoding N actions, each given those before it: three ways, one signature, the same actions.

The noise is drawn first (see `distributions`), which makes every action a deterministic function
of the actions before it. All ways therefore find the same joint action, the one that
deciding strictly one after another would sample.

stepwise: N full passes, as in the reference implementation. The oracle of the tests.
cached: N passes over one position each; keys and values are kept.
parallel: the joint action is the fixed point of the teacher-forced pass with that noise (Jacobi
    iteration: Song et al. 2021, arXiv 2002.03629; Wiggers & Hoogeboom, ICML 2020). Every pass
    settles at least the next agent, and all that follow up to the first whose action changed.
    Each pass starts behind the settled ones, batch rows that have settled drop out, and what does
    not settle fast enough to pay is left to narrower passes, in the end to `cached`.

Discrete actions are equal in all three ways, up to ties within float32 rounding. Real numbers
change a little in every pass, so `parallel` takes an action as settled once they move by less than
`distributions.TOLERANCE`; the log-prob is that of exactly the actions it returns.

Where the agents also choose who decides next, the order is found together with the actions
(`next_agent`), in the same three ways.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from rllib_seqmarl.nets.decoding import methods, next_agent
from rllib_seqmarl.nets.decoding.methods import DecodeInputs
from rllib_seqmarl.nets.decoding.next_agent import NextAgentInputs
from rllib_seqmarl.nets.distributions import ActionDistribution
from rllib_seqmarl.nets.orders.base import to_order
from rllib_seqmarl.nets.orders.next_agent import NextAgent, next_agent_log_prob
from rllib_seqmarl.nets.transformer.model import ActionDecoder
from rllib_seqmarl.nets.transformer.sparse_attention import OrderedNeighbours

FIXED_METHODS = {
    "parallel": methods.parallel,
    "cached": methods.cached,
    "stepwise": methods.stepwise,
}

#: The same, where the agents choose who decides next.
NEXT_AGENT_METHODS = {
    "parallel": next_agent.parallel,
    "cached": next_agent.cached,
    "stepwise": next_agent.stepwise,
}

#: The names a user may give.
METHODS = ("auto", *FIXED_METHODS)

#: What `auto` chooses from: `stepwise` does strictly more work than `cached`.
CANDIDATES = ("parallel", "cached")

#: Calls of each candidate that `auto` starts with; the first of them is not counted.
TRIALS = 6

#: At the start, a candidate this many times slower than the best is not tried again.
HOPELESS = 10.0

#: Share of the time that `auto` spends on measuring the slower candidate again: at first, and
#: where that has remained the slower one several times, half as much each time.
FIRST_REMEASURING, REMEASURING = 0.125, 0.02


class Decoded(NamedTuple):
    """A joint action in decision order."""

    actions: Tensor  # int [B, N] or float [B, N, A]
    log_prob: Tensor  # [B, N, K]
    order: Tensor | None = None  # int [B, N], where it was found on the way
    order_log_prob: Tensor | None = None  # [B, N], of each agent's choice of a successor


class Choices(NamedTuple):
    """Who says who decides next, and with what noise."""

    next_agent: NextAgent
    noise: Tensor | None  # [B, N, N] from ``next_agent.noise``; None for the most likely order


def decode(
    decoder: ActionDecoder,
    distribution: ActionDistribution,
    encoded: Tensor,
    mask: Tensor | None,
    noise: Tensor | None,
    method: str = "parallel",
    choices: Choices | None = None,
    neighbours: OrderedNeighbours | None = None,
) -> Decoded:
    """The joint action of N agents that decide one after another.

    Args:
        decoder: the causal decoder.
        distribution: what turns the head's output and noise into an action.
        encoded: o_hat in decision order, [B, N, D]; in slots, like mask and noise, where the
            agents choose who decides next.
        mask: available actions, or the dimensions that continuous ones have, in decision order,
            bool [B, N, A]; None where all are.
        noise: [B, N, A] from ``distribution.noise``; None for the greedy joint action.
        method: a key of `FIXED_METHODS`.
        choices: where the agents choose who decides next.
        neighbours: whom each agent attends to; None: all.

    Raises:
        ValueError: ``method`` is none of these.
    """
    if method not in FIXED_METHODS:
        raise ValueError(f"A way to decode is one of {', '.join(FIXED_METHODS)}, not {method!r}.")
    order = order_log_prob = None
    with torch.inference_mode():
        offset = distribution.offset(mask, noise)
        if choices is None:
            inputs = DecodeInputs(decoder, distribution, encoded, offset, neighbours)
            actions, parameters = FIXED_METHODS[method](inputs)
        else:
            head, choice_noise = choices
            actions, parameters, order, logits = NEXT_AGENT_METHODS[method](
                NextAgentInputs(
                    decoder,
                    distribution,
                    encoded,
                    offset,
                    next_agent=head,
                    choice_noise=choice_noise,
                )
            )
            order_log_prob, _ = next_agent_log_prob(logits, order)
            mask = None if mask is None else to_order(mask, order)
        log_prob = distribution.log_prob(parameters, mask, actions)
    # Copies made outside are ordinary tensors, which a learner may use.
    with torch.no_grad():
        if order is None or order_log_prob is None:
            return Decoded(actions.clone(), log_prob.clone())
        return Decoded(actions.clone(), log_prob.clone(), order.clone(), order_log_prob.clone())


class Decoding:
    """`decode` with a set method, or with the one that was measured to be the fastest (``auto``).

    ``auto`` times its candidates at the first calls of every shape and goes on with the faster
    one. It measures the other again now and then, because a policy whose agents come to depend
    on each other while it learns needs more passes in `parallel`. Its choice depends on the
    clock, and with it the last digits of log-probs: set a method where runs must be repeatable
    bit for bit.

    Args:
        method: one of `METHODS`.

    Raises:
        ValueError: ``method`` is none of these.
    """

    def __init__(self, method: str = "auto") -> None:
        if method not in METHODS:
            raise ValueError(f"The decoding is one of {', '.join(METHODS)}, not {method!r}.")
        self.method = method
        self._autotuners: dict[tuple[int, int, bool], Autotuner] = {}

    def __call__(
        self,
        decoder: ActionDecoder,
        distribution: ActionDistribution,
        encoded: Tensor,
        mask: Tensor | None,
        noise: Tensor | None,
        choices: Choices | None = None,
        neighbours: OrderedNeighbours | None = None,
    ) -> Decoded:
        """The joint action, as `decode` with the same arguments finds it."""
        inputs = decoder, distribution, encoded, mask, noise
        if self.method != "auto":
            return decode(*inputs, self.method, choices, neighbours)
        batch, agents, _ = encoded.shape
        shape = (batch, agents, noise is None)
        if shape not in self._autotuners:
            self._autotuners[shape] = Autotuner()
        autotuner = self._autotuners[shape]
        method = autotuner.next()
        begin = _clock(encoded.device)
        decoded = decode(*inputs, method, choices, neighbours)
        autotuner.record(method, _clock(encoded.device) - begin)
        return decoded

    def chosen(self, batch: int, agents: int, greedy: bool = False) -> str:
        """The method in use for this shape, for reports; ``auto`` where none was chosen yet."""
        if self.method != "auto":
            return self.method
        autotuner = self._autotuners.get((batch, agents, greedy))
        return autotuner.best if autotuner is not None and autotuner.decided else "auto"


class Autotuner:
    """The running times of the candidates for one shape."""

    def __init__(self) -> None:
        self.seconds: dict[str, deque[float]] = {name: deque(maxlen=5) for name in CANDIDATES}
        self.trials = dict.fromkeys(CANDIDATES, 0)
        self.until_remeasured = 0
        self._share = FIRST_REMEASURING
        self.decided = False
        #: The fastest candidate, once decided.
        self.best = CANDIDATES[0]

    def next(self) -> str:
        """The candidate to run now."""
        if not self.decided:
            return min(CANDIDATES, key=lambda name: self.trials[name])
        self.until_remeasured -= 1
        if self.until_remeasured > 0:
            return self.best
        return next(name for name in CANDIDATES if name != self.best)

    def record(self, method: str, seconds: float) -> None:
        """Adds the time of one call."""
        self.trials[method] += 1
        if self.trials[method] == 2:
            self.seconds[method].clear()  # the first call allocates and warms up
        self.seconds[method].append(seconds)
        if self.decided:
            if self.until_remeasured <= 0:
                self._evaluate()
            return
        if not all(self.trials.values()):
            return
        shortest = sorted(min(times) for times in self.seconds.values())
        hopeless = shortest[-1] > HOPELESS * shortest[0] and max(self.trials.values()) > 1
        if hopeless or min(self.trials.values()) >= TRIALS:
            self.decided = True
            self._evaluate()

    def _evaluate(self) -> None:
        best, other = sorted(CANDIDATES, key=self._time)
        if best != self.best:
            self._share = FIRST_REMEASURING
        self.best = best
        if self.seconds[other][-1] < self._time(best):
            self.until_remeasured = 1  # the slower one no longer looks it: measure it again at once
            return
        ratio = self._time(other) / self._time(best)
        self.until_remeasured = math.ceil(ratio / self._share)
        self._share = max(0.5 * self._share, REMEASURING)

    def _time(self, name: str) -> float:
        """The lower quartile: what else the machine does only adds to a time."""
        times = sorted(self.seconds[name])
        return times[len(times) // 4]


def _clock(device: torch.device) -> float:
    """Seconds, when the device has done its work.

    On a CPU those that this thread was at work, so that what else the machine does is not counted.
    """
    if device.type == "cpu":
        return time.thread_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # it computes in the background
    return time.perf_counter()
