"""PMAT: MAT whose agents decide in an order of priorities that is learned.

A scorer reads o_hat and gives every agent a positive score s_j; the order is drawn from the
Plackett-Luce distribution of the scores before anybody decides:

    P(i_1 .. i_N) = prod_m s_{i_m} / sum_{k >= m} s_{i_k}                        (eq. 8)
    rho    = P_new(order) / P_old(order), one ratio per step
    L_rank = -mean_t min(rho A_seq, clip(rho, 1 - eps, 1 + eps) A_seq)           (eq. 15-16)
    L      = L_MAT + c_rank L_rank

with A_seq the mean of the agents' advantages. Orders are drawn in training and are those of
descending score in evaluation. Scorer, sampling and probability are `nets.orders.plackett_luce`;
everything else is MAT.

What differs from the authors' code:

- The probability of the actions is computed in the order in which they were taken. Theirs
  computes it in index order, so that its ratio is not 1 before the first update, and what is
  trained is not what acts; ``train_in_sampled_order: false`` reproduces that.
- The scorer's hidden layers are distinct; theirs are one layer applied again
  (``share_hidden: true``). They are as wide as the model; theirs are 64, which is the same at the
  width of the papers' experiments.
- Agents that the policy loss masks out do not count in A_seq; theirs do.
- All ranks are drawn by one sort of log s + Gumbel noise; theirs draws them one after another.
- ``order_entropy_coeff`` may reward the entropy of the order; theirs has that term and it is 0.

Kept as in the code where it differs from the paper: s = 1 + 9 sigmoid(.), where eq. 11 has exp;
the clipped surrogate of eq. 15 in place of the plain gradient of eq. 13-14; the gradient of L_rank
goes through o_hat into the encoder. The paper gives c_rank and the number of layers per scenario
(1e-4 to 1e-1, 2 or 3); the defaults are those of the authors' scripts.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from torch import Tensor

from rllib_seqmarl.algorithms.mat import MAT, MATConfig, MATLearner, MATSettings
from rllib_seqmarl.learning.sequential.module import SequentialBatch
from rllib_seqmarl.losses import clipped_surrogate, weighted_sum
from rllib_seqmarl.nets.sequential_policy import Evaluation
from rllib_seqmarl.settings import Doc, Ge, Layers, OneOf, settings, training_method


@settings
class PMATSettings(MATSettings):
    """Settings of PMAT: MAT's, with an order that is learned."""

    order: Annotated[str, OneOf(("plackett_luce",)), Doc("who decides when.")] = "plackett_luce"
    ranking_coeff: Annotated[float, Ge(0), Doc("c_rank.")] = 1e-4
    ranking_layers: Annotated[Layers, Doc("hidden layers of the scorer.")] = 2
    share_hidden: Annotated[
        bool, Doc("all but the first of these are one layer, as published.")
    ] = False
    order_entropy_coeff: Annotated[float, Ge(0), Doc("weight of the order's entropy.")] = 0.0
    train_in_sampled_order: Annotated[bool, Doc("false: as in the authors' code.")] = True


class PMATConfig(MATConfig, PMATSettings):
    """The config of PMAT."""

    learned_order: ClassVar[str | None] = "plackett_luce"

    @training_method(PMATSettings)
    def training(self) -> None:
        """See `PMATSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or PMAT)

    def get_default_learner_class(self) -> type[PMATLearner]:
        """The learner of this file."""
        return PMATLearner


class PMATLearner(MATLearner):
    """MAT's, and the whole order as one more action of the team."""

    def evaluation_order(self, order: Tensor | None) -> Tensor | None:
        """The order that was drawn; with the authors' code, by slots."""
        return order if self.config.train_in_sampled_order else None

    def prepare_minibatch(self, minibatch: SequentialBatch) -> SequentialBatch:
        """See `MATLearner`; an order counts as often as an env step."""
        weight = self.mean_weights(minibatch.returns.new_ones(len(minibatch)))
        return super().prepare_minibatch(minibatch).replace(step_weight=weight)

    def policy_objective(self, batch: SequentialBatch, now: Evaluation, ratio: Tensor) -> Tensor:
        """L_clip + c_rank L_rank (eq. 15-16), less the bonus for the order's entropy."""
        assert now.order is not None
        assert now.order.scores is not None
        policy_loss = super().policy_objective(batch, now, ratio)
        rho = (now.order.log_prob - batch.order_log_prob).exp().unsqueeze(-1)  # [B, 1]
        surrogate = clipped_surrogate(rho, batch.team_advantage(), self.scheduled("clip_param"))
        ranking_loss = weighted_sum(surrogate, batch.step_weight)
        entropy = weighted_sum(now.order.entropy, batch.step_weight)
        scores = now.order.scores  # s, [B, N]
        spread = scores.amax(1) - scores.amin(1)
        self.log_metrics(
            ranking_loss=ranking_loss,
            order_entropy=entropy,
            ranking_score=weighted_sum(scores.mean(1), batch.step_weight),
            ranking_score_spread=weighted_sum(spread, batch.step_weight),
        )
        c_rank, c_entropy = self.config.ranking_coeff, self.config.order_entropy_coeff
        return policy_loss + c_rank * ranking_loss - c_entropy * entropy


class PMAT(MAT):
    """Prioritized Multi-Agent Transformer."""

    @classmethod
    def get_default_config(cls) -> PMATConfig:
        """The builder with this algorithm's defaults."""
        return PMATConfig()
