"""What a value function is, and what it may read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rllib_seqmarl.nets.distributions import ActionDistribution
from rllib_seqmarl.nets.transformer.model import ActionDecoder, ActionSpec, DecoderTrace
from rllib_seqmarl.nets.transformer.sparse_attention import OrderedNeighbours


class NetworkSizes(NamedTuple):
    """What networks are built from."""

    obs_dim: int
    action: ActionSpec
    agents: int | None  # None where any number may come
    width: int
    blocks: int
    heads: int


@dataclass(frozen=True)
class JointActions:
    """Joint actions that were taken, and the policy that took them; all in decision order.

    Attributes:
        decoder: the policy's decoder.
        distribution: its action distribution.
        encoded: o_hat, [B, N, D].
        mask: available actions, bool [B, N, A], or None.
        actions: int [B, N] or float [B, N, A].
        autoregressive: whether agents see the actions of those before them.
        neighbours: whom each agent attends to; None: all.
    """

    decoder: ActionDecoder
    distribution: ActionDistribution
    encoded: Tensor
    mask: Tensor | None
    actions: Tensor
    autoregressive: bool = True
    neighbours: OrderedNeighbours | None = None

    def batch_rows(self, rows: slice) -> JointActions:
        """Those of some rows of the batch."""
        return replace(
            self,
            encoded=self.encoded[rows],
            mask=None if self.mask is None else self.mask[rows],
            actions=self.actions[rows],
            neighbours=None if self.neighbours is None else self.neighbours.batch_rows(rows),
        )

    def parameters(self) -> Tensor:
        """Of each agent's action given what its predecessors did, [B, N, A]."""
        tokens = self.decoder.shift(self.actions)
        if not self.autoregressive:
            tokens = self.decoder.start_tokens(*self.encoded.shape[:2])
        return self.decoder.head(self.decoder(tokens, self.encoded, self.neighbours).output)


class ValueFunction(nn.Module, ABC):
    """What each agent's baseline sees. Everything is in decision order.

    The policy makes one pass of its decoder over the actions that were taken, and the value reads
    that pass. What it needs beside, it makes in `prepare`, before any gradient step.

    Args:
        sizes: of the policy's networks.
    """

    #: Whether values depend on actions. Where they do, the learner samples those that would have
    #: followed the last step of a rollout.
    reads_actions: ClassVar[bool] = True
    #: Whether `forward` reads more of the pass than o_hat. Where it does not, values alone cost
    #: no pass of the decoder.
    reads_decoder: ClassVar[bool] = True
    #: Settings of the algorithm that the class takes: their name there -> that of the argument.
    settings: ClassVar[Mapping[str, str]] = {}
    #: Whether `forward` needs what `prepare` gives; and whether that is made again before every
    #: gradient step, or once per iteration.
    prepares: ClassVar[bool] = False
    prepares_per_minibatch: bool = False

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()

    def prepare(self, taken: JointActions, agent_ids: Tensor | None = None) -> Tensor | None:
        """What `forward` reads beside the decoder's pass: constant, called without gradients.

        Args:
            taken: the joint actions, and the policy.
            agent_ids: positions of the agents that get a value, int [I], ascending; None: all.

        Returns:
            One entry per batch row, [B, ...]; None where nothing is needed.
        """
        return None

    def select(self, prepared: Tensor, indices: Tensor) -> Tensor:
        """What `forward` reads where only some of the agents with a value get one.

        Args:
            prepared: from `prepare`.
            indices: of those agents among its ``agent_ids``, int [K], ascending.
        """
        return prepared

    def join(self, prepared: Sequence[Tensor]) -> Tensor:
        """What `prepare` returned for parts of a batch, as if it had been given all of it."""
        return torch.cat(list(prepared))

    @abstractmethod
    def forward(
        self,
        trace: DecoderTrace,
        decoder: Any,
        prepared: Tensor | None = None,
        agent_ids: Tensor | None = None,
    ) -> Tensor:
        """Normalised values, [B, N].

        Args:
            trace: the policy's pass over the actions that were taken.
            decoder: which made it, of a network that has this value (see `nets.networks`).
            prepared: from `prepare`.
            agent_ids: as in `prepare`; the values of the others may be anything, and are 0 where
                computing them has a cost.
        """
