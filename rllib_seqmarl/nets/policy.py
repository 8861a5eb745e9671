"""The policy of a team that decides in sequence: encoder, decoder, order and value as parts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rllib_seqmarl.nets.decoding import decode
from rllib_seqmarl.nets.distributions import Categorical, DiagonalGaussian
from rllib_seqmarl.nets.orders import ORDERS, to_order, to_slots
from rllib_seqmarl.nets.transformer import ActionSpec, Decoder, Encoder
from rllib_seqmarl.nets.values import VALUES, complete, splice


class Decision(NamedTuple):
    """What the team does, in agent slots."""

    actions: Tensor  # int [B, N] or float [B, N, A]
    log_prob: Tensor  # [B, N, K], K = 1 (discrete) or A (continuous)
    order: Tensor | None  # int [B, N]; None is the index order


class Evaluation(NamedTuple):
    """What the learner needs of a joint action, in agent slots."""

    log_prob: Tensor  # [B, N, K]
    entropy: Tensor  # [B, N]
    values: Tensor  # [B, N], normalised


class SequentialPolicy(nn.Module):
    """Encoder over all observations, decoder over the actions, an order and a value function.

    Args:
        obs_dim: length of one agent's observation.
        action: what one agent may do.
        embed_dim: width D.
        num_blocks: blocks of the encoder and of the decoder.
        num_heads: attention heads.
        order: who decides when, a name in `orders.ORDERS`.
        value: what each agent's baseline sees, a name in `values.VALUES`.
        autoregressive: False hides the predecessors' actions from the decoder: the agents then
            decide simultaneously, with a network of the same size.
        decoding: how N actions are decoded, a name in `decoding.METHODS`.
        successors: how the completions of the sequential value are made, one of
            `values.SUCCESSORS`.
    """

    def __init__(
        self,
        *,
        obs_dim: int,
        action: ActionSpec,
        embed_dim: int = 64,
        num_blocks: int = 1,
        num_heads: int = 1,
        order: str = "index",
        value: str = "encoder",
        autoregressive: bool = True,
        decoding: str = "parallel",
        successors: str = "greedy",
    ) -> None:
        super().__init__()
        self.action = action
        self.autoregressive = autoregressive
        self.decoding = decoding
        self.successors = successors
        self.encoder = Encoder(obs_dim, embed_dim, num_blocks, num_heads)
        self.decoder = Decoder(action, embed_dim, num_blocks, num_heads)
        self.distribution: Categorical | DiagonalGaussian = (
            Categorical(action.size) if action.discrete else DiagonalGaussian(action.size)
        )
        self.choose_order = ORDERS[order]
        self.value = VALUES[value](embed_dim)

    # -- rollout -----------------------------------------------------------------------------

    @torch.no_grad()
    def act(
        self,
        obs: Tensor,
        mask: Tensor | None,
        *,
        deterministic: bool,
        generator: torch.Generator | None = None,
    ) -> Decision:
        """Decides for the team.

        Args:
            obs: [B, N, obs_dim].
            mask: available actions, or the dimensions that continuous ones have, bool [B, N, A];
                None where all are.
            deterministic: every agent takes its most likely action, and its successors see that.
            generator: source of the noise; torch's global one without it.
        """
        encoded = self.encoder(obs)
        order = self.choose_order(encoded, generator)
        encoded = to_order(encoded, order)
        mask = None if mask is None else to_order(mask, order)
        noise = None
        if not deterministic:
            noise = self.distribution.noise(obs.shape[:2], obs.device, generator)
        if self.autoregressive:
            decoded = decode(self.decoder, self.distribution, encoded, mask, noise, self.decoding)
            actions, log_prob = decoded
        else:
            parameters = self._simultaneous(encoded)
            actions = self.distribution.choose(parameters, mask, noise)
            log_prob = self.distribution.log_prob(parameters, mask, actions)
        return Decision(to_slots(actions, order), to_slots(log_prob, order), order)

    # -- learning ----------------------------------------------------------------------------

    def evaluate(
        self,
        obs: Tensor,
        mask: Tensor | None,
        actions: Tensor,
        order: Tensor | None,
        completions: Tensor | None,
    ) -> Evaluation:
        """One teacher-forced pass over joint actions that were taken, in the order they were.

        Args:
            obs: [B, N, obs_dim].
            mask: bool [B, N, A] or None.
            actions: int [B, N] or float [B, N, A].
            order: int [B, N] or None.
            completions: from `completions`, where the value needs them.
        """
        encoded = to_order(self.encoder(obs), order)
        mask = None if mask is None else to_order(mask, order)
        actions = to_order(actions, order)
        if self.autoregressive:  # one pass serves the policy and the value
            decoded, values = self.value(self.decoder, encoded, actions, completions)
            parameters = self.decoder.head(decoded)
        else:
            values = self.value.values(self.decoder, encoded, actions, completions)
            parameters = self._simultaneous(encoded)
        log_prob = self.distribution.log_prob(parameters, mask, actions)
        entropy = self.distribution.entropy(parameters, mask)
        return Evaluation(
            to_slots(log_prob, order), to_slots(entropy, order), to_slots(values, order)
        )

    def values(
        self,
        obs: Tensor,
        actions: Tensor | None,
        order: Tensor | None,
        completions: Tensor | None,
    ) -> Tensor:
        """Normalised values alone, [B, N]; arguments as in `evaluate`.

        ``actions`` may be None where the value function reads none.
        """
        encoded = to_order(self.encoder(obs), order)
        actions = None if actions is None else to_order(actions, order)
        values = self.value.values(self.decoder, encoded, actions, completions)
        return to_slots(values, order)

    @torch.no_grad()
    def completions(
        self, obs: Tensor, mask: Tensor | None, actions: Tensor | None, order: Tensor | None
    ) -> Tensor | None:
        """The joint actions that the sequential value reads, [B, N, N(, A)] in decision order.

        None for a value function that needs none.
        """
        if not self.value.needs_completions or actions is None:
            return None
        encoded = to_order(self.encoder(obs), order)
        mask = None if mask is None else to_order(mask, order)
        actions = to_order(actions, order)
        if not self.autoregressive:  # whatever the others do, an agent's most likely action
            own = self.distribution.choose(self._simultaneous(encoded), mask, None)
            return splice(actions, own)
        return complete(self.decoder, self.distribution, encoded, mask, actions, self.successors)

    def _simultaneous(self, encoded: Tensor) -> Tensor:
        """Logits or means [B, N, A] when nobody sees an action: start symbols everywhere."""
        shape = encoded.shape[:2]
        if self.action.discrete:
            tokens = torch.zeros(shape, dtype=torch.long, device=encoded.device)
        else:
            tokens = encoded.new_zeros(*shape, self.action.size)
        return self.decoder.head(self.decoder(tokens, encoded))
