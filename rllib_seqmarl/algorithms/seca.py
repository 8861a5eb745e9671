"""SeCA: Sequential Credit Assignment (Zang et al., AAMAS 2023).

Recurrent agents act simultaneously, each on its own history; a central critic f_phi evaluates them
one after another. In the paper's symbols, for an order a_1 .. a_N of evaluation:

- v^{1:i} = [u^1 .. u^i, pi^{i+1} .. pi^N]: actions of the evaluated, policies of the rest.
- eq. 5:  A^{a_i} = f(s, v^{1:i}) - f(s, v^{1:i-1}), N + 1 values for N agents.
- eq. 12: L(phi) = (y^(lambda) - f(s, u))^2 with a target copy f_{phi-} (`learning.critics`).
- eq. 13: J^a = log pi^a(u^a | tau^a) A^a + xi H^a, of which the entropy's gradient is divided by
  its size (eq. 14): xi H / stop_gradient(H).
- eq. 17, 18: the agent with the largest contribution c^a is evaluated first, c^a by gradients
  integrated along the path that the agents' policies took (Sundararajan et al. 2017).

============================  ====================================================================
the paper's name              settings
============================  ====================================================================
SeCA (SeCA-IG-episode)        ``order: contribution``, ``order_window: null`` (the defaults)
SeCA-IG-1, -IG-10, -IG-20     ``order_window: 1``, ``10``, ``20``
SeCA-Prob, -Entro, -Fixed     ``order: probability``, ``entropy``, ``fixed``
COMA-newArchi                 ``advantage: counterfactual`` (eq. 3 on the same critic)
============================  ====================================================================

No code, no hyper-parameters are published; set-up, critic and entropy are LICA's, whose defaults
are used. Readings of what is not printed:

- A is a constant in the policy gradient: neither critic nor pi get a gradient through it. As f
  is learned at actions and read at policies, its mean over actions need not be zero.
- The critic takes its step first, so advantages are those of the improved critic, as in LICA.
- The path runs straight from (s_t, pi_t) to (s_{t+1}, pi_{t+1}); the gradient is taken at
  ``path_points`` midpoints of each such piece. The share of the state is nobody's contribution;
  ``state_share`` in the results says how large it is. Equal contributions: slot order.
- "Adjusted after every episode and fixed in each battle": an episode is evaluated in the order of
  its own path. With ``order_source: previous_episode`` it is that of the world's episode before,
  random at first; with several learners, a resumed run begins with the first learner's orders.
- The last step of an episode, from which no path leads on, keeps the order of the step before.

Deviations, each on purpose:

- A batch is T steps of E worlds, not 32 whole episodes: one that the block's end cuts goes on in
  the next, from the stored recurrent state, and is evaluated in two parts.
- A truncated episode and the end of a block bootstrap with Q'(s, pi), for no action was chosen.
- The hypernetwork of W1 is 64 wide; LICA's is N A E (``hypernet_dim: null``).
- The entropy's ratio is each sample's own as in eq. 14, with H of at least 0.001; LICA's code has
  one of the whole batch, ``entropy_ratio: batch``.
- Dead agents are left out of the mean of eq. 16; ``use_policy_active_mask: false`` counts them in,
  as LICA does, though their terms are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from rllib_seqmarl.algorithms.lica import LICAConfig, LICASettings
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.base.batch import SET_LATER
from rllib_seqmarl.learning.central_q.adaptive_entropy import AdaptiveEntropyLearner
from rllib_seqmarl.learning.central_q.module import (
    CentralQBatch,
    RecurrentModule,
    RecurrentOutput,
)
from rllib_seqmarl.nets.critics.contributions import (
    Path,
    of_previous_episode,
    over_windows,
    path_contributions,
)
from rllib_seqmarl.nets.critics.credit import counterfactual_credit, sequential_credit
from rllib_seqmarl.settings import Doc, Gt, settings, training_method

#: What orders of evaluation depend on beside the present rollout; the key in checkpoints.
EVALUATION_SCORES = "carried_orders"


@settings
class SeCASettings(LICASettings):
    """Settings of SeCA: LICA's and these; see the module's table for the paper's variants."""

    advantage: Annotated[
        Literal["sequential", "counterfactual"],
        Doc("``sequential`` (eq. 5) or ``counterfactual`` (COMA's, eq. 3)."),
    ] = "sequential"
    order: Annotated[
        Literal["contribution", "probability", "entropy", "fixed"],
        Doc("""by what agents are evaluated first: a large ``contribution``, a high ``probability``
        of the action taken, a low ``entropy``, or one random order, ``fixed`` for the run."""),
    ] = "contribution"
    order_window: Annotated[
        int | None,
        Gt(0),
        Doc("steps whose contributions make one order; null: those of the episode."),
    ] = None
    order_source: Annotated[
        Literal["own_episode", "previous_episode"],
        Doc("""whose contributions: those of the ``own_episode``, or of the ``previous_episode`` of
        the same env."""),
    ] = "own_episode"
    path_points: Annotated[
        int, Gt(0), Doc("points per step of the path at which gradients are taken.")
    ] = 5
    entropy_ratio = "sample"


class SeCAConfig(LICAConfig, SeCASettings):
    """The config of SeCA."""

    @training_method(SeCASettings)
    def training(self) -> None:
        """See `SeCASettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or SeCA)

    def validate(self) -> None:
        """See `CentralQConfig.validate`."""
        super().validate()
        whole_episodes = self.order == "contribution" and self.order_window is None
        if self.order_source == "previous_episode" and not whole_episodes:
            raise UserError(
                "order_source 'previous_episode' is about contributions to whole episodes: leave "
                "order at 'contribution' and order_window at null."
            )

    def get_default_learner_class(self) -> type[SeCALearner]:
        """The learner of this file."""
        return SeCALearner


@dataclass(kw_only=True)
class SeCABatch(CentralQBatch):
    """Adds the order in which the agents are evaluated."""

    order: Tensor = SET_LATER  # slots, int [E, T, N]


class SeCALearner(AdaptiveEntropyLearner[SeCABatch, RecurrentModule]):
    """Score-function gradient with the advantage of a sequential evaluation."""

    batch_class = SeCABatch

    # -- order of evaluation -----------------------------------------------------------------

    def extend_train_batch(self, batch: SeCABatch, path: Path) -> SeCABatch:
        """Adds the order of evaluation."""
        scores = self._scores(batch, path)
        return batch.replace(order=scores.argsort(dim=-1, descending=True, stable=True))

    def _scores(self, batch: SeCABatch, path: Path) -> Tensor:
        """Who is evaluated first, [E, T, N]: the largest number."""
        policy, actions, extra = path.policy[:, :-1], batch.actions, self.extra_state
        if self.config.order == "probability":
            return policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        if self.config.order == "entropy":
            return torch.xlogy(policy, policy).sum(-1)
        if self.config.order == "fixed":
            if EVALUATION_SCORES not in extra:  # the sum is the same for all learners
                draw = torch.rand(actions.shape[-1], generator=self.generator)
                extra[EVALUATION_SCORES] = self.sum_over_learners(draw.to(self.device))
            return extra[EVALUATION_SCORES].expand(actions.shape)
        contributions = self._contributions(path)
        if self.config.order_source == "own_episode":
            window = self.config.order_window
            return over_windows(contributions, batch.is_first, path.goes_on, window)
        before = extra.get(EVALUATION_SCORES)
        if before is None or before.shape[1] != len(contributions):
            draw = torch.rand(2, *contributions[:, 0].shape, generator=self.generator)
            before = draw.to(self.device)
        scores, extra[EVALUATION_SCORES] = of_previous_episode(
            contributions, batch.is_first, before
        )
        return scores

    def _contributions(self, path: Path) -> Tensor:
        """c^a of each step, [E, T, N]; the state's share of Q's change is logged."""
        config = self.config
        with self.network_time():
            contributions, beside = path_contributions(
                self.core.critic, path, config.path_points, config.micro_batch_size
            )
        share = beside.abs().sum() / (beside + contributions.sum(-1)).abs().sum().clamp(min=1e-12)
        self.metrics.log_value(
            (DEFAULT_MODULE_ID, "state_share"), float(share), reduce="mean", window=1
        )
        return contributions

    # -- loss --------------------------------------------------------------------------------

    def compute_loss_for_module(
        self, *, module_id: str, config: SeCAConfig, batch: SeCABatch, fwd_out: RecurrentOutput
    ) -> Tensor:
        """-J of eq. 13, mean over agents and steps (eq. 16); the critic is constant."""
        actions, policy = batch.actions.flatten(0, 1), fwd_out.policy.flatten(0, 1)
        with torch.no_grad():
            q = partial(self.core.critic, batch.critic_state.flatten(0, 1))
            if config.advantage == "sequential":
                advantage = sequential_credit(q, actions, policy, batch.order.flatten(0, 1))
            else:
                advantage = counterfactual_credit(q, actions, policy)
        return self.policy_gradient_loss(batch, fwd_out, advantage.view_as(batch.actions))


class SeCA(TeamAlgorithm):
    """Sequential credit assignment."""

    @classmethod
    def get_default_config(cls) -> SeCAConfig:
        """The builder with this algorithm's defaults."""
        return SeCAConfig()
