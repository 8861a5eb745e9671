"""The policy of a team that decides in sequence: encoder, decoder, order and value as parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rllib_seqmarl.nets.decoding.decode import Choices, Decoded, Decoding
from rllib_seqmarl.nets.distributions import Categorical, DiagonalGaussian
from rllib_seqmarl.nets.networks import NETWORKS, Sizes, check_network
from rllib_seqmarl.nets.orders.orders import (
    ORDERS,
    ChosenOrder,
    NextAgent,
    OrderEvaluation,
    neighbours_in_order,
    to_order,
    to_slots,
)
from rllib_seqmarl.nets.transformer.model import ActionDecoder, ActionSpec, Decoder
from rllib_seqmarl.nets.transformer.sparse_attention import in_slots
from rllib_seqmarl.nets.values.values import GreedyContinuations, complete, splice


class Decision(NamedTuple):
    """What the team does, in agent slots."""

    actions: Tensor  # int [B, N] or float [B, N, A]
    log_prob: Tensor  # [B, N, K], K = 1 (discrete) or A (continuous)
    order: Tensor | None  # int [B, N]; None is the index order
    order_log_prob: Tensor | None  # [B] or [B, N], see `OrderEvaluation`; None: not learned


class Evaluation(NamedTuple):
    """What the learner needs of a joint action, in agent slots."""

    log_prob: Tensor  # [B, N, K]
    entropy: Tensor  # [B, N]
    values: Tensor  # [B, N], normalised
    order: OrderEvaluation | None  # None: not learned


class SequentialPolicy(nn.Module):
    """Encoder over all observations, decoder over the actions, an order and a value function.

    Where its verbs are given ``neighbours``, int [B, N, K] by slots, -1 where there are fewer,
    agents hear their neighbours only (see `neighbours`). It takes a network that can do so, and an
    order that is known before anybody decides.

    Args:
        obs_dim: length of one agent's observation.
        action: what one agent may do.
        num_agents: N; only a next-agent head with an output per agent and the network ``mlp``
            depend on it.
        network: a name in `networks.NETWORKS`.
        embed_dim: width D.
        num_blocks: blocks of the encoder and of the decoder.
        num_heads: attention heads.
        order: who decides when, a name in `orders.ORDERS`.
        order_settings: what the class of that order takes beside the width and N.
        train_in_sampled_order: False judges actions as if agents had decided by their slots, in
            whatever order they did: the published code of PMAT.
        value: what each agent's baseline sees, a name in `values.VALUES`.
        autoregressive: False hides the predecessors' actions from the decoder: the agents then
            decide simultaneously, with a network of the same size.
        decoding: how N actions are decoded, a name in `decoding.METHODS`.
        successors: how the completions of the sequential value are made, one of
            `values.SUCCESSORS`.
        value_chunk_size: decoder positions that the sequential value computes at once; None: all.
    """

    def __init__(
        self,
        *,
        obs_dim: int,
        action: ActionSpec,
        num_agents: int | None = None,
        network: str = "transformer",
        embed_dim: int = 64,
        num_blocks: int = 1,
        num_heads: int = 1,
        order: str = "index",
        order_settings: Mapping[str, Any] | None = None,
        train_in_sampled_order: bool = True,
        value: str = "encoder",
        autoregressive: bool = True,
        decoding: str = "parallel",
        successors: str = "greedy",
        value_chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.action = action
        self.autoregressive = autoregressive
        self.decode = Decoding(decoding)
        self.successors = successors
        check_network(
            network,
            value=value,
            order=order,
            autoregressive=autoregressive,
            num_heads=num_heads,
        )
        parts = NETWORKS[network]
        sizes = Sizes(obs_dim, action, num_agents, embed_dim, num_blocks, num_heads)
        self.encoder = parts.encoder(sizes)
        self.decoder = parts.decoder(sizes)
        self.distribution: Categorical | DiagonalGaussian = (
            Categorical(action.size) if action.discrete else DiagonalGaussian(action.size)
        )
        self.train_in_sampled_order = train_in_sampled_order
        self.order = ORDERS[order](embed_dim, num_agents, **(order_settings or {}))
        if isinstance(self.order, NextAgent) and not autoregressive:
            raise ValueError("Agents who see no actions cannot say who decides next.")
        self.value = parts.values[value](sizes)
        self.value.chunk_size = value_chunk_size

    # -- rollout -----------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        obs: Tensor,
        mask: Tensor | None,
        *,
        deterministic: bool,
        generator: torch.Generator | None = None,
        previous: Tensor | None = None,
        neighbours: Tensor | None = None,
    ) -> Decision:
        """Decides for the team.

        Args:
            obs: [B, N, obs_dim].
            mask: available actions, or the dimensions that continuous ones have, bool [B, N, A];
                None where all are.
            deterministic: every agent takes its most likely action, and its successors see that.
            generator: source of the noise; torch's global one without it.
            previous: the orders of the step before, see `ChosenOrder.choose`.
            neighbours: int [B, N, K]; None: agents hear all.
        """
        encoded = self._encode(obs, neighbours)
        order = order_log_prob = choices = None
        if isinstance(self.order, NextAgent):
            noise = None if deterministic else self.order.noise(encoded, generator)
            choices = Choices(self.order, noise)
        else:
            assert isinstance(self.order, ChosenOrder)
            order, order_log_prob = self.order.choose(encoded, deterministic, generator, previous)
        encoded = to_order(encoded, order)
        mask = None if mask is None else to_order(mask, order)
        noise = None
        if not deterministic:
            noise = self.distribution.noise(obs.shape[:2], obs.device, generator)
        decoder = self._decoder(neighbours, order)
        if self.autoregressive and isinstance(decoder, ActionDecoder):
            decoded = self.decode(decoder, self.distribution, encoded, mask, noise, choices)
        else:
            parameters = self.decoder.head(self._simultaneous(decoder, encoded))
            actions = self.distribution.choose(parameters, mask, noise)
            decoded = Decoded(actions, self.distribution.log_prob(parameters, mask, actions))
        if decoded.order is not None and decoded.order_log_prob is not None:
            order = decoded.order
            order_log_prob = to_slots(decoded.order_log_prob, order)
        return Decision(
            to_slots(decoded.actions, order),
            to_slots(decoded.log_prob, order),
            order,
            order_log_prob,
        )

    # -- learning ----------------------------------------------------------------------------

    def evaluate(
        self,
        obs: Tensor,
        mask: Tensor | None,
        actions: Tensor,
        order: Tensor | None,
        completions: GreedyContinuations | None,
        neighbours: Tensor | None = None,
    ) -> Evaluation:
        """One teacher-forced pass over joint actions that were taken, in the order they were.

        Args:
            obs: [B, N, obs_dim].
            mask: bool [B, N, A] or None.
            actions: int [B, N] or float [B, N, A].
            order: int [B, N] or None.
            completions: from `completions`, where the value needs them.
            neighbours: int [B, N, K] or None.
        """
        slots = self._encode(obs, neighbours)
        sequence = self._sequence(order)
        decoder = self._decoder(neighbours, sequence)
        encoded = to_order(slots, sequence)
        mask = None if mask is None else to_order(mask, sequence)
        actions = to_order(actions, sequence)
        if self.autoregressive:  # one pass serves the policy and the value
            decoded, values = self.value(decoder, encoded, actions, completions)
        else:
            values = self.value.values(decoder, encoded, actions, completions)
            decoded = self._simultaneous(decoder, encoded)
        parameters = self.decoder.head(decoded)
        log_prob = self.distribution.log_prob(parameters, mask, actions)
        entropy = self.distribution.entropy(parameters, mask)
        return Evaluation(
            to_slots(log_prob, sequence),
            to_slots(entropy, sequence),
            to_slots(values, sequence),
            None if order is None else self.order.evaluate(slots, decoded, order),
        )

    def values(
        self,
        obs: Tensor,
        actions: Tensor | None,
        order: Tensor | None,
        completions: GreedyContinuations | None,
        neighbours: Tensor | None = None,
    ) -> Tensor:
        """Normalised values alone, [B, N]; arguments as in `evaluate`.

        ``actions`` may be None where the value function reads none.
        """
        sequence = self._sequence(order)
        encoded = to_order(self._encode(obs, neighbours), sequence)
        actions = None if actions is None else to_order(actions, sequence)
        decoder = self._decoder(neighbours, sequence)
        values = self.value.values(decoder, encoded, actions, completions)
        return to_slots(values, sequence)

    @torch.no_grad()
    def completions(
        self,
        obs: Tensor,
        mask: Tensor | None,
        actions: Tensor | None,
        order: Tensor | None,
        agents: Tensor | None = None,
        neighbours: Tensor | None = None,
    ) -> GreedyContinuations | None:
        """The joint actions that the sequential value reads; None where it needs none.

        Args:
            obs: [B, N, obs_dim].
            mask: bool [B, N, A] or None.
            actions: int [B, N] or float [B, N, A].
            order: int [B, N] or None.
            agents: whose values are wanted, by their positions, from `branches.sample_agents`;
                None: all.
            neighbours: int [B, N, K] or None.
        """
        if not self.value.needs_completions or actions is None:
            return None
        sequence = self._sequence(order)
        encoded = to_order(self._encode(obs, neighbours), sequence)
        decoder = self._decoder(neighbours, sequence)
        mask = None if mask is None else to_order(mask, sequence)
        actions = to_order(actions, sequence)
        if not self.autoregressive:  # whatever the others do, an agent's most likely action
            parameters = decoder.head(self._simultaneous(decoder, encoded))
            own = self.distribution.choose(parameters, mask, None)
            return splice(actions, own, agents)
        assert isinstance(decoder, ActionDecoder)
        return complete(
            decoder,
            self.distribution,
            encoded,
            mask,
            actions,
            self.successors,
            self.value.chunk_size,
            agents,
        )

    def _sequence(self, order: Tensor | None) -> Tensor | None:
        """In which order actions that were taken in ``order`` are judged."""
        return order if self.train_in_sampled_order else None

    def _encode(self, obs: Tensor, neighbours: Tensor | None) -> Tensor:
        """o_hat [B, N, D], in slots."""
        return self.encoder(obs) if neighbours is None else self.encoder(obs, in_slots(neighbours))

    def _decoder(self, neighbours: Tensor | None, sequence: Tensor | None) -> Any:
        """The decoder, in which agents hear their neighbours only where these are given."""
        if neighbours is None:
            return self.decoder
        assert isinstance(self.decoder, Decoder)
        return self.decoder.among(neighbours_in_order(neighbours, sequence))

    def _simultaneous(self, decoder: Any, encoded: Tensor) -> Tensor:
        """The decoder's rows [B, N, D] when nobody sees an action: start symbols everywhere."""
        shape = encoded.shape[:2]
        if self.action.discrete:
            tokens = torch.zeros(shape, dtype=torch.long, device=encoded.device)
        else:
            tokens = encoded.new_zeros(*shape, self.action.size)
        return decoder(tokens, encoded)
