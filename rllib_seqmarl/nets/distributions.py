"""Action distributions of one agent's decision, with their noise kept apart from their parameters.

A sample is a deterministic function of parameters and noise: ``argmax(logits + Gumbel)`` or
``mean + std * normal``. With the noise drawn first, every way of decoding gives the same actions.

Log-probs have a trailing axis K: K = 1 for discrete actions, K = A (one per action dimension)
for continuous ones, so that the loss may clip the ratio per dimension or of their product. An
action of several parts (`Mixed`) has one for each part.

A mask says which actions are available or, for continuous actions, which dimensions an agent has:
the others are 0 and have neither probability nor entropy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from rllib_seqmarl.nets.softmax import log_softmax

#: Logit of an action that is not available. Finite: the entropy's 0 * log 0 must stay 0.
UNAVAILABLE = -1e10

#: Two real actions closer than this many standard deviations count as one: a change of 1e-5
#: standard deviations moves a log-prob by 1e-5 times the noise.
TOLERANCE = 1e-5

#: Relative rounding error of one action, float32: two ways to sum give different last digits.
ROUNDING = 1e-6


class ActionDistribution(Protocol):
    """The distribution of one action per agent, given the decoder head's output [..., A]."""

    def noise(
        self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        """Noise [*shape, A] for as many agents, drawn where the generator is."""

    def choose(self, parameters: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """The action for this noise, int [...] or float [..., A]; the mode without noise."""

    def offset(self, mask: Tensor | None, noise: Tensor | None) -> Tensor | None:
        """What mask and noise do to the parameters, as one tensor [..., W] for `decide`."""

    def decide(self, parameters: Tensor, offset: Tensor | None) -> Tensor:
        """`choose` with mask and noise already made into their ``offset``."""

    def distance(self, actions: Tensor, others: Tensor) -> Tensor:
        """float [...]: how far agents' actions are apart; up to 1 they count as the same."""

    def log_prob(self, parameters: Tensor, mask: Tensor | None, actions: Tensor) -> Tensor:
        """[..., K]."""

    def entropy(self, parameters: Tensor, mask: Tensor | None) -> Tensor:
        """[...], in nats; summed over action dimensions."""

    def log_prob_and_entropy(
        self, parameters: Tensor, mask: Tensor | None, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both at once, [..., K] and [...]."""


def masked_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits [..., A] with those of unavailable actions (``mask`` False) at -1e10."""
    return logits if mask is None else logits.masked_fill(~mask, UNAVAILABLE)


def gumbel(
    shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Standard Gumbel noise, drawn where the generator is: argmax(logits + it) is a sample."""
    source = device if generator is None else generator.device
    exponential = torch.empty(shape, device=source)
    return -exponential.exponential_(generator=generator).log().to(device)


class Categorical(nn.Module):
    """One of A actions, of which only those in the mask are available."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def noise(
        self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        """Standard Gumbel noise, [*shape, A]."""
        return gumbel((*shape, self.size), device, generator)

    def choose(self, parameters: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """argmax(logits + noise) over the available actions: [..., A] -> int [...]."""
        return self.decide(parameters, self.offset(mask, noise))

    def offset(self, mask: Tensor | None, noise: Tensor | None) -> Tensor | None:
        """Noise with -1e10 in place of that of unavailable actions, [..., A]."""
        if mask is None:
            return noise
        if noise is None:
            noise = torch.zeros(mask.shape, device=mask.device)
        return noise.masked_fill(~mask, UNAVAILABLE)

    def decide(self, parameters: Tensor, offset: Tensor | None) -> Tensor:
        """argmax(logits + offset): [..., A] -> int [...]."""
        return (parameters if offset is None else parameters + offset).argmax(-1)

    def distance(self, actions: Tensor, others: Tensor) -> Tensor:
        """Two of int [...] -> float [...]: 0, or 2 where they are not the same."""
        return 2.0 * (actions != others)

    def log_prob(self, parameters: Tensor, mask: Tensor | None, actions: Tensor) -> Tensor:
        """[..., A], int [...] -> [..., 1]."""
        log_probs = log_softmax(masked_logits(parameters, mask))
        return log_probs.gather(-1, actions.unsqueeze(-1))

    def entropy(self, parameters: Tensor, mask: Tensor | None) -> Tensor:
        """[..., A] -> [...]."""
        return _entropy(log_softmax(masked_logits(parameters, mask)))

    def log_prob_and_entropy(
        self, parameters: Tensor, mask: Tensor | None, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[..., A], int [...] -> [..., 1] and [...]."""
        log_probs = log_softmax(masked_logits(parameters, mask))
        return log_probs.gather(-1, actions.unsqueeze(-1)), _entropy(log_probs)


def _entropy(log_probs: Tensor) -> Tensor:
    """Of normalised log-probs, [..., A] -> [...]."""
    return -(log_probs.exp() * log_probs).sum(-1)


class Gaussian(ABC):
    """A real vector with independent dimensions; the parameters are its mean.

    Samples are not squashed; the environment's adapter maps [-1, 1] to its bounds. Agents that
    have fewer than A dimensions say so in their mask.
    """

    size: int

    @property
    @abstractmethod
    def std(self) -> Tensor:
        """[A], or [N, A] where agents differ."""

    def noise(
        self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        """Standard normal noise, [*shape, A]."""
        source = device if generator is None else generator.device
        return torch.randn(*shape, self.size, generator=generator, device=source).to(device)

    def choose(self, parameters: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """mean + std * noise, 0 in dimensions that the agent lacks: [..., A] -> [..., A]."""
        return self.decide(parameters, self.offset(mask, noise))

    def offset(self, mask: Tensor | None, noise: Tensor | None) -> Tensor | None:
        """std * noise, [..., A]; with a mask, [..., 2A]: that of the agent's dimensions, and it."""
        scaled = None if noise is None else self.std * noise
        if mask is None:
            return scaled
        dim_mask = mask.to(self.std.dtype)
        scaled = torch.zeros_like(dim_mask) if scaled is None else scaled * dim_mask
        return torch.cat((scaled, dim_mask), dim=-1)

    def decide(self, parameters: Tensor, offset: Tensor | None) -> Tensor:
        """mean + offset: [..., A] -> [..., A]."""
        if offset is None:
            return parameters
        if offset.shape[-1] == self.size:
            return parameters + offset
        scaled, dim_mask = offset.chunk(2, dim=-1)
        return parameters * dim_mask + scaled

    def distance(self, actions: Tensor, others: Tensor) -> Tensor:
        """Two of [..., A] -> [...]: the largest over dimensions, in units of `TOLERANCE`."""
        unit = TOLERANCE * self.std + ROUNDING * others.abs()
        return ((actions - others).abs() / unit).amax(-1)

    def log_prob(self, parameters: Tensor, mask: Tensor | None, actions: Tensor) -> Tensor:
        """[..., A], [..., A] -> [..., A], per dimension."""
        std = self.std
        standardised = (actions - parameters) / std
        log_prob = -0.5 * standardised.square() - std.log() - 0.5 * math.log(2.0 * math.pi)
        return log_prob if mask is None else log_prob.masked_fill(~mask, 0.0)

    def entropy(self, parameters: Tensor, mask: Tensor | None) -> Tensor:
        """[..., A] -> [...]; it does not depend on the mean."""
        per_dimension = self.std.log() + 0.5 * math.log(2.0 * math.pi * math.e)
        if mask is not None:
            return (per_dimension * mask).sum(-1)
        return per_dimension.sum(-1).expand(parameters.shape[:-1])

    def log_prob_and_entropy(
        self, parameters: Tensor, mask: Tensor | None, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[..., A], [..., A] -> [..., A] and [...]."""
        return self.log_prob(parameters, mask, actions), self.entropy(parameters, mask)


def bounded_std(log_std: Tensor) -> Tensor:
    """0.5 * sigmoid(log_std), as in the official code of MAT and in HARL; same shape."""
    return 0.5 * torch.sigmoid(log_std)


class DiagonalGaussian(Gaussian, nn.Module):
    """A `Gaussian` with one learned deviation per dimension for all agents, 0.3655 at first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.log_std = nn.Parameter(torch.ones(size))

    @property
    def std(self) -> Tensor:
        """[A]."""
        return bounded_std(self.log_std)


class Mixed(nn.Module):
    """Parts of one action: choices among n_1, ..., n_P actions, then C real numbers.

    They are decided at once: given the observations and the predecessors' actions, they do not
    depend on each other. Parameters, masks and noise stand side by side, A = n_1 + ... + n_P + C;
    an action is float [..., P + C], whole numbers first.

    A choice of which the mask leaves nothing is one that the agent has not: it is 0 for certain.

    Args:
        sizes: n_1, ..., n_P.
        real: the distribution of the real numbers; None: there are none.
    """

    def __init__(self, sizes: Sequence[int], real: Gaussian | None) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.total = sum(sizes)  # D, of all choices together
        self.choices = Categorical(self.total)  # what does not matter where one ends
        self.real = real

    def noise(
        self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
    ) -> Tensor:
        """Standard Gumbel noise of the choices, then standard normal noise: [*shape, A]."""
        noise = self.choices.noise(shape, device, generator)
        if self.real is None:
            return noise
        return torch.cat((noise, self.real.noise(shape, device, generator)), dim=-1)

    def choose(self, parameters: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor:
        """Every part's action for this noise: [..., A] -> [..., P + C]."""
        return self.decide(parameters, self.offset(mask, noise))

    def offset(self, mask: Tensor | None, noise: Tensor | None) -> Tensor | None:
        """Those of the choices, then that of the real numbers: [..., D] and [..., C] or more."""
        if mask is None and noise is None:
            return None
        offset = self.choices.offset(self._legal(mask), self._of_choices(noise))
        assert offset is not None
        if self.real is None:
            return offset
        of_real = self.real.offset(self._of_real(mask), self._of_real(noise))
        assert of_real is not None
        return torch.cat((offset, of_real), dim=-1)

    def decide(self, parameters: Tensor, offset: Tensor | None) -> Tensor:
        """[..., A] -> [..., P + C]."""
        logits = parameters[..., : self.total]
        if offset is not None:
            logits = logits + offset[..., : self.total]
        taken = [part.argmax(-1) for part in logits.split(self.sizes, dim=-1)]
        actions = torch.stack(taken, dim=-1).to(parameters.dtype)
        if self.real is None:
            return actions
        numbers = self.real.decide(parameters[..., self.total :], self._of_real(offset))
        return torch.cat((actions, numbers), dim=-1)

    def distance(self, actions: Tensor, others: Tensor) -> Tensor:
        """Two of [..., P + C] -> [...]: a choice that is not the same counts as a deviation."""
        parts = len(self.sizes)
        differ = (actions[..., :parts] != others[..., :parts]).any(-1) / TOLERANCE
        if self.real is None:
            return differ
        return torch.maximum(differ, self.real.distance(actions[..., parts:], others[..., parts:]))

    def log_prob(self, parameters: Tensor, mask: Tensor | None, actions: Tensor) -> Tensor:
        """[..., A], [..., P + C] -> [..., P + C], of each part."""
        return self._log_prob(self._log_probs(parameters, mask), parameters, mask, actions)

    def entropy(self, parameters: Tensor, mask: Tensor | None) -> Tensor:
        """[..., A] -> [...], the sum over all parts."""
        return self._entropy(self._log_probs(parameters, mask), parameters, mask)

    def log_prob_and_entropy(
        self, parameters: Tensor, mask: Tensor | None, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[..., A], [..., P + C] -> [..., P + C] and [...]."""
        log_probs = self._log_probs(parameters, mask)
        log_prob = self._log_prob(log_probs, parameters, mask, actions)
        return log_prob, self._entropy(log_probs, parameters, mask)

    def _log_probs(self, parameters: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Of every choice, [..., n]."""
        logits = masked_logits(parameters[..., : self.total], self._legal(mask))
        return [log_softmax(part) for part in logits.split(self.sizes, dim=-1)]

    def _log_prob(
        self, log_probs: list[Tensor], parameters: Tensor, mask: Tensor | None, actions: Tensor
    ) -> Tensor:
        chosen = actions[..., : len(self.sizes)].long().split(1, dim=-1)
        found = [part.gather(-1, a) for part, a in zip(log_probs, chosen, strict=True)]
        if self.real is not None:
            means, numbers = parameters[..., self.total :], actions[..., len(self.sizes) :]
            found.append(self.real.log_prob(means, self._of_real(mask), numbers))
        return torch.cat(found, dim=-1)

    def _entropy(self, log_probs: list[Tensor], parameters: Tensor, mask: Tensor | None) -> Tensor:
        entropy = torch.stack([_entropy(part) for part in log_probs]).sum(0)
        if self.real is None:
            return entropy
        return entropy + self.real.entropy(parameters[..., self.total :], self._of_real(mask))

    def _of_choices(self, x: Tensor | None) -> Tensor | None:
        """The part [..., D] that belongs to the choices."""
        return None if x is None else x[..., : self.total]

    def _of_real(self, x: Tensor | None) -> Tensor | None:
        """What belongs to the real numbers."""
        return None if x is None else x[..., self.total :]

    def _legal(self, mask: Tensor | None) -> Tensor | None:
        """What may be chosen, [..., D]: action 0 alone where the agent has not this choice."""
        if mask is None:
            return None
        parts = []
        for part in mask[..., : self.total].split(self.sizes, dim=-1):
            absent = ~part.any(-1, keepdim=True)
            parts += [part[..., :1] | absent, part[..., 1:]]
        return torch.cat(parts, dim=-1)
