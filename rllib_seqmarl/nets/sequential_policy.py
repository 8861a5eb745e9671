"""The policy of a team that decides in sequence: encoder, decoder, order and value as parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rllib_seqmarl.matmul import multiply_few_rows
from rllib_seqmarl.nets.decoding.decode import Choices, Decoded, Decoding
from rllib_seqmarl.nets.distributions import Categorical, DiagonalGaussian, Mixed
from rllib_seqmarl.nets.encoders.reader import ObservationReader, as_reals
from rllib_seqmarl.nets.networks import Network, check_network, value_class
from rllib_seqmarl.nets.orders.base import (
    ChosenOrder,
    DecisionOrder,
    OrderEvaluation,
    OrderInputs,
    neighbours_in_order,
    to_order,
    to_slots,
)
from rllib_seqmarl.nets.orders.next_agent import NextAgent
from rllib_seqmarl.nets.transformer.attention_weights import (
    ENCODER,
    mixers_by_kind,
    recorded_weights,
    to_agents,
)
from rllib_seqmarl.nets.transformer.model import ActionDecoder, ActionSpec, DecoderTrace
from rllib_seqmarl.nets.transformer.sparse_attention import OrderedNeighbours, attended_by_agents
from rllib_seqmarl.nets.values.base import JointActions, NetworkSizes, ValueFunction
from rllib_seqmarl.registry import NETWORKS, ORDERS


class Decision(NamedTuple):
    """What the team does, in agent slots."""

    actions: Tensor  # int [B, N], float [B, N, A], or of several parts float [B, N, P + C]
    log_prob: Tensor  # [B, N, K], K = 1 (discrete), A (continuous) or P + C
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

    Where its methods are given ``neighbours``, int [B, N, K] by slots, -1 where there are fewer,
    agents attend to their neighbours only (see `sparse_attention`). It takes a network that can do
    so, and an order that is known before anybody decides.

    Args:
        obs_dim: length of one agent's observation, or of what ``reader`` makes of it.
        action: what one agent may do.
        num_agents: N; only a next-agent head with an output per agent and the network ``mlp``
            depend on it.
        order_settings: what the class of the order takes beside the width and N.
        value: None for a policy that only acts.
        value_settings: what the class of the value takes beside the sizes.
        reader: reads observations for the encoder; None: they are real numbers, read as they are.

    The other arguments are the settings of these names, see `SequentialSettings`.
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
        order_settings: Mapping[str, object] | None = None,
        value: str | None = "encoder",
        value_settings: Mapping[str, object] | None = None,
        autoregressive: bool = True,
        decoding: str = "parallel",
        reader: ObservationReader | None = None,
    ) -> None:
        super().__init__()
        self.action = action
        self.autoregressive = autoregressive
        self.reader = reader
        self.decode = Decoding(decoding)
        check_network(
            network, value=value, order=order, autoregressive=autoregressive, num_heads=num_heads
        )
        parts: Network = NETWORKS.resolve(network)
        sizes = NetworkSizes(obs_dim, action, num_agents, embed_dim, num_blocks, num_heads)
        self.encoder = parts.encoder(sizes)
        self.decoder = parts.decoder(sizes)
        self.distribution = _distribution(action)
        self.order: DecisionOrder = ORDERS.resolve(order)(
            embed_dim, num_agents, **(order_settings or {})
        )
        self.value: ValueFunction
        if value is not None:
            self.value = value_class(network, value)(sizes, **(value_settings or {}))

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
        noise: Tensor | None = None,
    ) -> Decision:
        """Decides for the team.

        Args:
            obs: [B, N, obs_dim].
            mask: available actions, or the dimensions that continuous ones have, bool [B, N, A];
                None where all are.
            deterministic: every agent takes its most likely action, and its successors see that.
            generator: source of the noise; torch's global one without it.
            previous: the orders of the step before, see `OrderInputs`.
            neighbours: int [B, N, K]; None: agents attend to all.
            noise: of the actions in decision order, [B, N, A], where it was drawn already.
        """
        with multiply_few_rows(obs.shape[0] * obs.shape[1]):
            encoded = self._encode(obs, neighbours)
            order = order_log_prob = choices = None
            if isinstance(self.order, NextAgent):
                choice_noise = None if deterministic else self.order.noise(encoded, generator)
                choices = Choices(self.order, choice_noise)
            else:
                assert isinstance(self.order, ChosenOrder)
                inputs = OrderInputs(as_reals(obs), encoded, deterministic, generator, previous)
                order, order_log_prob = self.order.choose(inputs)
            encoded = to_order(encoded, order)
            mask = None if mask is None else to_order(mask, order)
            if not deterministic and noise is None:
                noise = self.distribution.noise(obs.shape[:2], obs.device, generator)
            attended = neighbours_in_order(neighbours, order)
            if self.autoregressive and isinstance(self.decoder, ActionDecoder):
                decoded = self.decode(
                    self.decoder, self.distribution, encoded, mask, noise, choices, attended
                )
            else:
                parameters = self.decoder.head(self._simultaneous(encoded, attended).output)
                actions = self.distribution.choose(parameters, mask, noise)
                decoded = Decoded(actions, self.distribution.log_prob(parameters, mask, actions))
            if decoded.order is not None and decoded.order_log_prob is not None:
                order = decoded.order
                order_log_prob = to_slots(decoded.order_log_prob, order)
            actions, log_prob = to_slots(decoded.actions, order), to_slots(decoded.log_prob, order)
            return Decision(actions, log_prob, order, order_log_prob)

    # -- learning ----------------------------------------------------------------------------

    def evaluate(
        self,
        obs: Tensor,
        mask: Tensor | None,
        actions: Tensor,
        order: Tensor | None = None,
        prepared: Tensor | None = None,
        *,
        agent_ids: Tensor | None = None,
        neighbours: Tensor | None = None,
        drawn_order: Tensor | None = None,
    ) -> Evaluation:
        """One teacher-forced pass over joint actions that were taken.

        Args:
            obs: [B, N, obs_dim].
            mask: bool [B, N, A] or None.
            actions: int [B, N] or float [B, N, A].
            order: in which the actions are evaluated, int [B, N] or None.
            prepared: from `prepare_value`.
            agent_ids: the agents that get a value, int [I], ascending; None: all.
            neighbours: int [B, N, K] or None.
            drawn_order: the order whose probability is evaluated, int [B, N]; None: ``order``.
        """
        in_slots = self._encode(obs, neighbours)
        attended = neighbours_in_order(neighbours, order)
        encoded = to_order(in_slots, order)
        mask = None if mask is None else to_order(mask, order)
        actions = to_order(actions, order)
        trace = self._value_trace(encoded, actions, attended, policy_follows=self.autoregressive)
        values = self.value(trace, self.decoder, prepared, agent_ids)
        if not self.autoregressive:
            trace = self._simultaneous(encoded, attended)
        assert trace.output is not None
        parameters = self.decoder.head(trace.output)
        log_prob, entropy = self.distribution.log_prob_and_entropy(parameters, mask, actions)
        drawn, evaluated = order if drawn_order is None else drawn_order, None
        if drawn is not None:
            evaluated = self.order.evaluate(in_slots, trace.output, drawn)
        return Evaluation(
            to_slots(log_prob, order),
            to_slots(entropy, order),
            to_slots(values, order),
            evaluated,
        )

    def values(
        self,
        obs: Tensor,
        actions: Tensor | None,
        order: Tensor | None = None,
        prepared: Tensor | None = None,
        *,
        agent_ids: Tensor | None = None,
        neighbours: Tensor | None = None,
    ) -> Tensor:
        """Normalised values alone, [B, N]; arguments as in `evaluate`.

        ``actions`` may be None where the value reads none; where it does, that is a ValueError.
        """
        if actions is None and self.value.reads_actions:
            raise ValueError(f"{type(self.value).__name__} reads actions.")
        encoded = to_order(self._encode(obs, neighbours), order)
        actions = None if actions is None else to_order(actions, order)
        attended = neighbours_in_order(neighbours, order)
        trace = self._value_trace(encoded, actions, attended)
        return to_slots(self.value(trace, self.decoder, prepared, agent_ids), order)

    @torch.no_grad()
    def prepare_value(
        self,
        obs: Tensor,
        mask: Tensor | None,
        actions: Tensor | None,
        order: Tensor | None = None,
        *,
        agent_ids: Tensor | None = None,
        neighbours: Tensor | None = None,
    ) -> Tensor | None:
        """What the value function reads beside the decoder's pass (`ValueFunction.prepare`).

        Arguments as in `evaluate`. None where the value needs nothing, or reads no actions.
        """
        if actions is None or not self.value.prepares:
            return None
        assert isinstance(self.decoder, ActionDecoder)
        taken = JointActions(
            self.decoder,
            self.distribution,
            to_order(self._encode(obs, neighbours), order),
            None if mask is None else to_order(mask, order),
            to_order(actions, order),
            self.autoregressive,
            neighbours_in_order(neighbours, order),
        )
        return self.value.prepare(taken, agent_ids)

    # -- what can be seen of it --------------------------------------------------------------

    @torch.no_grad()
    def attention_weights(
        self,
        obs: Tensor,
        actions: Tensor,
        order: Tensor | None = None,
        *,
        neighbours: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """How much agents attend to what, by kind of layer; arguments as in `evaluate`.

        A decoder whose agents see no actions is left out.

        Returns:
            ``ENCODER`` [B, N, N] by slots, kinds of the decoder [B, N, 1 + N] as of `to_agents`;
            nothing where the network has no attention.
        """
        mixers = mixers_by_kind(self.encoder)
        sequential = self.autoregressive and isinstance(self.decoder, ActionDecoder)
        if sequential or not isinstance(self.decoder, ActionDecoder):
            mixers |= mixers_by_kind(self.decoder)
        with recorded_weights(mixers) as found:
            encoded = to_order(self._encode(obs, neighbours), order)
            tokens = self.decoder.shift(to_order(actions, order))
            self.decoder(tokens, encoded, neighbours_in_order(neighbours, order))
        if order is None:
            order = torch.arange(obs.shape[1], device=obs.device).expand(len(obs), -1)
        return {
            kind: weights if kind == ENCODER else to_agents(weights, order)
            for kind, weights in found.items()
        }

    # -- parts -------------------------------------------------------------------------------

    def _encode(self, obs: Tensor, neighbours: Tensor | None) -> Tensor:
        """o_hat [B, N, D], in slots."""
        if self.reader is not None:
            obs = self.reader(obs)
        if neighbours is None:
            return self.encoder(obs)
        return self.encoder(obs, attended_by_agents(neighbours))

    def _value_trace(
        self,
        encoded: Tensor,
        actions: Tensor | None,
        neighbours: OrderedNeighbours | None,
        policy_follows: bool = False,
    ) -> DecoderTrace:
        """The teacher-forced pass; none where neither the value nor the policy reads it."""
        if not (self.value.reads_decoder or policy_follows):
            return DecoderTrace(encoded)
        tokens = None if actions is None else self.decoder.shift(actions)
        return self.decoder(tokens, encoded, neighbours)

    def _simultaneous(self, encoded: Tensor, neighbours: OrderedNeighbours | None) -> DecoderTrace:
        """The decoder's pass when nobody sees an action: start symbols everywhere."""
        tokens = None
        if isinstance(self.decoder, ActionDecoder):
            tokens = self.decoder.start_tokens(*encoded.shape[:2])
        return self.decoder(tokens, encoded, neighbours)


def _distribution(action: ActionSpec) -> Categorical | DiagonalGaussian | Mixed:
    if action.discrete:
        return Categorical(action.size)
    if not action.parts:
        return DiagonalGaussian(action.size)
    return Mixed(action.parts, DiagonalGaussian(action.num_real) if action.num_real else None)
