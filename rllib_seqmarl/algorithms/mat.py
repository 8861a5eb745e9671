"""MAT: Multi-Agent Reinforcement Learning is a Sequence Modeling Problem (Wen et al. 2022).

A transformer encoder turns all agents' observations into o_hat, on which a value per agent is
read; a causal decoder generates the actions one agent after another. Both are trained together
with clipped PPO on per-agent advantages:

    L = L_clip(theta) + c_v L_V(phi) - c_ent H[pi]
    r      = pi(a^m | o_hat, a^{1:m-1}) / pi_old(a^m | o_hat, a^{1:m-1})
    L_clip = -mean_{t,m} min(r A, clip(r, 1 - eps, 1 + eps) A)    (`learning.order_objectives`)
    L_V    =  mean_{t,m} max(huber(R - V), huber(R - V_clipped)), normalised returns R

What differs from the authors' code (each on purpose; the first four change numbers):

- Huber loss is two-sided; theirs has no gradient for large negative errors.
- A truncated episode bootstraps from its final observation; theirs takes it for terminated.
  ``time_limit: terminate`` and ``drop`` reproduce the references.
- Minibatches are of near-equal size; theirs drop the rows that remain.
- The entropy of a continuous action is summed over its dimensions; theirs averages without masks.
- The constant state input and the modules that never got a gradient do not exist.
- Decoding keeps keys and values or runs in parallel; theirs runs N full passes. Same actions.
- Optimiser and value normalisation are part of the checkpoint.

Kept as in the code where it differs from the paper: one advantage and one value per agent (the
paper speaks of a joint advantage), the ratio of a continuous action is clipped per dimension,
dead agents are masked out of the policy loss but not of the value loss (what their StarCraft
script really does), value normalisation is updated once per minibatch with the raw returns, the
value's clip range is the policy's and in normalised units.

rMAT, MAT in random order, is ``order: random``: with ``order_granularity: step`` as the PMAT paper
has it, with ``episode`` as in the authors' code, whose environments permute the agents at every
reset (in an encoder that sees no order, that is the same). MAT-adjust of the AOAD-MAT paper is
``clip_param: 0.01``, or a schedule from 0.05 to 0.01: the paper can be read either way.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.base.module import ENTROPY
from rllib_seqmarl.learning.sequential.config import OrderConfig
from rllib_seqmarl.learning.sequential.learner import SequentialLearner
from rllib_seqmarl.learning.sequential.module import VALUES, SequentialBatch, SequentialModule
from rllib_seqmarl.learning.sequential.objectives import OBJECTIVES, Output
from rllib_seqmarl.losses import (
    RATIO_AGGREGATIONS,
    clipped_value_loss,
    probability_ratio,
    weighted_sum,
)
from rllib_seqmarl.nets.decoding.decode import METHODS
from rllib_seqmarl.nets.networks import ATTENTIONS, check_network, value_class
from rllib_seqmarl.nets.values.sequential import SUCCESSORS
from rllib_seqmarl.registry import NETWORKS
from rllib_seqmarl.registry import VALUES as VALUE_FUNCTIONS
from rllib_seqmarl.returns import TIME_LIMITS
from rllib_seqmarl.rollout.rollout_batch import LOG_PROB


class MATConfig(OrderConfig):
    """Settings of MAT; the defaults are those of the authors' StarCraft script.

    Those of the order of decisions stand in `OrderConfig`.

    Attributes:
        network: what the team is made of (see `nets.networks`).
        embed_dim: width d of encoder and decoder.
        num_blocks: blocks of each.
        num_heads: attention heads.
        attention: ``all``, or ``neighbours``, those that the environment names (`nets.neighbours`).
        value: what each agent's baseline sees (see `nets.values`).
        autoregressive: False hides the predecessors' actions from the decoder.
        decode: how N actions are decoded (see `nets.decoding`); with a ``seed``, ``auto`` is
            ``parallel``, because a choice by the clock could not be repeated.
        clip_param: eps, of the ratio and of the value; a number or a schedule.
        lambda_: trace decay of the advantages.
        entropy_coeff: c_ent; a number or a schedule ``[[env_step, value], ...]``.
        vf_loss_coeff: c_v.
        huber_delta: where the value loss becomes linear.
        ratio_aggregation: ratio of an action with several dimensions (see `losses`).
        value_norm_beta: weight of the running statistics of the returns.
        successors: how SrSv's joint actions are completed; of no effect with other values.
        value_chunk_size: decoder positions, over all rows of a piece of a minibatch, that SrSv's
            value computes at once. It bounds memory where agents are many; the gradient is the
            same, at the price of a second forward pass where there are more. None: no bound.
        value_agents: about how many agents have SrSv's value in an update, drawn anew in each: only
            they are learned from. It needs the index order. None, or more than there are: all.
    """

    _CHOICES: ClassVar[dict[str, tuple[str, ...]]] = OrderConfig._CHOICES | {
        "network": (*NETWORKS, "decentralised"),
        "attention": ATTENTIONS,
        "value": tuple(VALUE_FUNCTIONS),
        "decode": METHODS,
        "ratio_aggregation": RATIO_AGGREGATIONS,
        "time_limit": TIME_LIMITS,
        "successors": SUCCESSORS,
    }
    _POSITIVE: ClassVar[set[str]] = OrderConfig._POSITIVE | {
        "embed_dim",
        "num_blocks",
        "num_heads",
        "value_chunk_size",
        "value_agents",
        "clip_param",
        "huber_delta",
    }
    _UNIT_INTERVAL: ClassVar[set[str]] = {"gamma", "lambda_", "value_norm_beta"}
    _WHOLE: ClassVar[set[str]] = OrderConfig._WHOLE | {
        "embed_dim",
        "num_blocks",
        "num_heads",
        "value_chunk_size",
        "value_agents",
    }
    _OPTIONAL: ClassVar[set[str]] = OrderConfig._OPTIONAL | {"value_chunk_size", "value_agents"}

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class or MAT)
        self.network = "transformer"
        self.embed_dim = 64
        self.num_blocks = 1
        self.num_heads = 1
        self.attention = "all"
        self.value = "encoder"
        self.autoregressive = True
        self.decode = "auto"
        self.successors = "greedy"
        self.value_chunk_size: int | None = 131_072
        self.value_agents: int | None = None
        self.lr = 5e-4
        self.num_epochs = 15
        self.clip_param = 0.05
        self.gamma = 0.99
        self.lambda_ = 0.95
        self.entropy_coeff = 0.01
        self.vf_loss_coeff = 1.0
        self.huber_delta = 10.0
        self.grad_clip = 10.0
        self.ratio_aggregation = "per_dim"
        self.value_norm_beta = 0.99999

    def validate(self) -> None:
        """See `TeamConfig.validate`."""
        super().validate()
        if self.embed_dim % self.num_heads:
            raise UserError(
                f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}."
            )
        check_network(
            self.network,
            value=self.value_function,
            order=self.order,
            autoregressive=self.autoregressive,
            decode=self.decode,
            num_heads=self.num_heads,
            attention=self.attention,
        )

    @property
    def value_function(self) -> str:
        """What each agent's baseline sees: a name in `nets.values.VALUES`."""
        return self.value

    def get_default_learner_class(self) -> type[MATLearner]:
        """The learner of this file."""
        return MATLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The policy with the parts that this config names."""
        seeded = self.decode == "auto" and self.seed is not None
        return RLModuleSpec(
            module_class=SequentialModule,
            model_config={
                "network": self.network,
                "embed_dim": self.embed_dim,
                "num_blocks": self.num_blocks,
                "num_heads": self.num_heads,
                "attention": self.attention,
                "order": self.order,
                "order_settings": self.order_settings(),
                "value": self.value_function,
                "autoregressive": self.autoregressive,
                "decoding": "parallel" if seeded else self.decode,
                "value_settings": {
                    argument: getattr(self, key)
                    for key, argument in value_class(
                        self.network, self.value_function
                    ).settings.items()
                },
                "value_norm_beta": self.value_norm_beta,
            },
        )


class MATLearner(SequentialLearner):
    """Clipped PPO on the advantages of each agent's own value."""

    def compute_loss_for_module(
        self, *, module_id: str, config: MATConfig, batch: SequentialBatch, fwd_out: Output
    ) -> Tensor:
        """L of the module docstring for rows [B, N, ...] of a minibatch."""
        eps = self.scheduled("clip_param")
        policy_weight, value_weight = batch.policy_weight, batch.value_weight

        new, old = fwd_out[LOG_PROB], batch.log_prob  # [B, N, K]
        # A mask over K components, K > 1, is one of action dimensions.
        exists = batch.action_mask if new.shape[-1] > 1 else None
        ratio = probability_ratio(new, old, config.ratio_aggregation, exists)
        policy_loss, order_terms = OBJECTIVES[config.order](config, eps, ratio, batch, fwd_out)

        value_error = clipped_value_loss(
            fwd_out[VALUES], batch.old_values, batch.targets, eps, config.huber_delta
        )
        value_loss = weighted_sum(value_error, value_weight)

        entropy = weighted_sum(fwd_out[ENTROPY], policy_weight)
        c_ent = self.scheduled("entropy_coeff")
        loss = policy_loss - c_ent * entropy + config.vf_loss_coeff * value_loss

        outside = ((ratio - 1.0).abs() > eps).float().mean(-1)
        self.log_metrics(
            policy_loss=policy_loss,
            vf_loss=value_loss,
            entropy=entropy,
            clip_fraction=weighted_sum(outside, policy_weight),
            ratio_deviation=weighted_sum((ratio - 1.0).abs().mean(-1), policy_weight),
            total_loss=loss,
            **order_terms,
        )
        return loss


class MAT(TeamAlgorithm):
    """Multi-Agent Transformer."""

    @classmethod
    def get_default_config(cls) -> MATConfig:
        """The builder with this algorithm's defaults."""
        return MATConfig()
