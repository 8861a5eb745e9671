"""AOAD-MAT's order: found by the decoder while the agents decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.distributions import gumbel, masked_logits
from rllib_seqmarl.nets.orders.base import DecisionOrder, OrderEvaluation, ranks, to_slots
from rllib_seqmarl.nets.transformer.model import head as output_head
from rllib_seqmarl.nets.transformer.model import linear

#: What `NextAgent` reads its choice from.
NEXT_AGENT_HEADS = ("mlp", "pointer")


class NextAgent(DecisionOrder):
    """AOAD-MAT: whoever decides also says who decides next, from the same decoder position.

    Position m has seen the actions of the agents before it and not the action that is chosen on
    it, so an agent's action and its choice of a successor are independent given them. The decoder
    finds the order while it decodes (`nets.decoding.next_agent`).

    Args:
        width: D.
        num_agents: N, the outputs of the ``mlp``.
        head: ``mlp`` has an output per agent slot, with the shape of the action head; ``pointer``
            compares the position's output x with every agent's o_hat, for any N:
            <W x, o_hat_j> / sqrt(D).
        first_agent: the slot that decides first.

    Raises:
        ValueError: an ``mlp`` without ``num_agents``.
        UserError: ``first_agent`` is none of the N agents.
    """

    learned_by = "AOAD-MAT"
    settings: ClassVar = {"next_agent_head": "head", "first_agent": "first_agent"}

    def __init__(
        self,
        width: int,
        num_agents: int | None = None,
        head: str = "mlp",
        first_agent: int = 0,
    ) -> None:
        super().__init__(width, num_agents)
        self.first_agent = first_agent
        if num_agents is not None:
            self._check_first_agent(num_agents)
        self.pointer = head == "pointer"
        self.out: nn.Linear | nn.Sequential
        if self.pointer:
            self.out = linear(width, width)
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
        self._check_first_agent(agents)
        return torch.full((batch, 1), self.first_agent, device=encoded.device)

    def _check_first_agent(self, agents: int) -> None:
        if self.first_agent >= agents:
            raise UserError(
                f"first_agent is {self.first_agent}, and the {agents} agents count from 0."
            )

    def logits(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """Of every agent to be the next one.

        Args:
            decoded: output of L positions of the decoder, [B, L, D].
            encoded: o_hat in slots, [B, N, D].

        Returns:
            [B, L, N], candidates in slots.
        """
        out: Tensor = self.out(decoded)
        if not self.pointer:
            return out
        return out @ encoded.transpose(1, 2) / math.sqrt(encoded.shape[-1])

    def scorer(self, encoded: Tensor) -> Callable[[Tensor], Tensor]:
        """`logits` of this o_hat, for many calls with the same weights; gradients are not kept."""
        if isinstance(self.out, nn.Linear):
            # The layer is multiplied into o_hat: one product per call.
            scale = math.sqrt(encoded.shape[-1])
            keys = (encoded @ (self.out.weight / scale)).transpose(1, 2)  # [B, D, N]
            bias = (encoded @ (self.out.bias / scale)).unsqueeze(1)  # [B, 1, N]
            return lambda decoded: torch.baddbmm(bias, decoded, keys)
        hidden, _, norm, last = cast("tuple[nn.Linear, nn.GELU, nn.LayerNorm, nn.Linear]", self.out)
        shape, eps = tuple(norm.normalized_shape), norm.eps
        weights = hidden.weight, hidden.bias, norm.weight, norm.bias, last.weight, last.bias

        def score(decoded: Tensor) -> Tensor:
            x = F.gelu(F.linear(decoded, *weights[:2]))
            return F.linear(torch.layer_norm(x, shape, *weights[2:4], eps), *weights[4:])

        return score

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
