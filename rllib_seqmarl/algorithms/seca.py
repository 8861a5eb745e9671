"""SeCA: Sequential Credit Assignment (Zang et al., AAMAS 2023).

Recurrent agents act simultaneously, each on its own history; a central critic f_phi evaluates them
one after another. In the paper's symbols, for an order a_1 .. a_N of evaluation:

- v^{1:i} = [u^1 .. u^i, pi^{i+1} .. pi^N]: actions of the evaluated, policies of the rest.
- eq. 5:  A^{a_i} = f(s, v^{1:i}) - f(s, v^{1:i-1}), N + 1 values for N agents.
- eq. 12: L(phi) = (y^(lambda) - f(s, u))^2 with a target copy f_{phi-} (`learning.central_q`).
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
(not in the paper)            ``return_correction: true``, see `SeCASettings`
============================  ====================================================================

No code, no hyper-parameters are published; set-up, critic and entropy are LICA's, whose defaults
are used. Readings of what is not printed:

- A is a constant in the policy gradient: neither critic nor pi get a gradient through it. As f
  is learned at actions and read at policies, its mean over actions need not be zero.
- The critic takes its step first, so advantages are those of the improved critic, as in LICA.
- The path runs straight from (s_t, pi_t) to (s_{t+1}, pi_{t+1}); the gradient is taken at
  ``path_points`` midpoints of each step. The share of the state is nobody's contribution;
  ``state_share`` in the results says how large it is. Equal contributions: slot order.
- "Adjusted after every episode and fixed in each battle": an episode is evaluated in the order of
  its own path. With ``order_source: previous_episode`` it is that of the episode before in the same
  environment, random at first; with several learners, a resumed run begins with the orders of the
  first one.
- The last step of an episode, from which no path leads on, keeps the order of the step before.

Deviations, each on purpose:

- A batch is T steps of E environments, not 32 whole episodes: an episode that the rollout's end
  cuts continues in the next rollout, from the stored recurrent state,
  and is evaluated in two parts.
- The target copy, which the paper updates "periodically", follows every 20,000 env steps.
- A truncated episode and the end of a rollout bootstrap with Q'(s, pi), for no action was chosen.
- The hypernetwork of W1 is 64 wide; LICA's is N A E (``hypernet_dim: null``).
- The entropy's ratio is each sample's own as in eq. 14, with H of at least 0.001; LICA's code has
  one of the whole batch, ``entropy_ratio: batch``.
- Dead agents are left out of the mean of eq. 16; ``use_policy_active_mask: false`` counts them in,
  as LICA does, though their terms are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from torch import Tensor

from rllib_seqmarl.algorithms.lica import LICASettings
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.algorithm import TeamAlgorithm
from rllib_seqmarl.learning.base.batch import SET_LATER
from rllib_seqmarl.learning.base.explanation import NO_ORDER, Explanation, Quantity
from rllib_seqmarl.learning.central_q.config import CentralQConfig
from rllib_seqmarl.learning.central_q.learner import CentralQLearner
from rllib_seqmarl.learning.central_q.module import (
    CentralQBatch,
    HypernetworkModule,
    Path,
    RecurrentModule,
    RecurrentOutput,
)
from rllib_seqmarl.losses import adaptive_entropy, weighted_sum
from rllib_seqmarl.nets.critics.joint import JointCritic
from rllib_seqmarl.rollout.rollout_batch import ACTIONS
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
    return_correction: Annotated[
        bool,
        Doc("""adds to every agent's credit what the critic leaves unexplained of the return,
        y^(lambda) - f(s, u), which the paper does not: errors of the critic in what one agent's
        action changes then turn the gradient less, see `unexplained_return`."""),
    ] = False
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


class SeCAConfig(CentralQConfig, SeCASettings):
    """The config of SeCA."""

    @training_method(SeCASettings)
    def training(self) -> None:
        """See `SeCASettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or SeCA)

    def check(self) -> None:
        """See `CentralQConfig.check`."""
        super().check()
        whole_episodes = self.order == "contribution" and self.order_window is None
        if self.order_source == "previous_episode" and not whole_episodes:
            raise UserError(
                "order_source 'previous_episode' is about contributions to whole episodes: leave "
                "order at 'contribution' and order_window at null."
            )

    def explain(self, module: RLModule, columns: dict[str, Tensor]) -> Explanation:
        """Adds the order of evaluation and the credits; see `TeamConfig.explain`.

        The last step has no path that leads on, as in learning. With ``order_source:
        previous_episode`` the order is that of this episode all the same.
        """
        said = super().explain(module, columns)
        assert isinstance(module, RecurrentModule)
        if module.inference_only:
            return said
        path, actions = module.episode_path(columns), columns[ACTIONS]
        q, policy = partial(module.critic, path.state[0, :-1]), path.policy[0, :-1]
        if self.order in ("probability", "entropy"):
            said.order = by_scores(policy_scores(self.order, policy, actions))
        elif self.order == "contribution":
            contributions, _ = path_contributions(module.critic, path, self.path_points)
            is_first = torch.zeros_like(path.not_done)
            is_first[:, 0] = True
            scores = over_windows(contributions, is_first, path.not_done, self.order_window)
            said.order = by_scores(scores[0])
        if said.order is not None:
            said.order_title = "order of evaluation"
            said.missing.remove(NO_ORDER)
        with torch.no_grad():
            if self.advantage == "counterfactual":
                credit = counterfactual_credit(q, actions, policy)
            elif said.order is None:
                said.missing.append("credits: the learner alone knows the order 'fixed'")
                return said
            else:
                credit = sequential_credit(q, actions, policy, said.order)
        said.quantities.append(Quantity("credit of each agent", credit, signed=True))
        return said

    def get_default_learner_class(self) -> type[SeCALearner]:
        """The learner of this file."""
        return SeCALearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Recurrent agents and a hypernetwork critic."""
        return self.module_spec(HypernetworkModule, "embed_dim", "hypernet_dim")


# Functions of this section: B states, N agents, A discrete actions; joint actions are [B, K, N, A],
# see `nets.critics.joint`; ``q`` is the critic in given states, [B, K, N, A] -> [B, K]; an order is
# int [B, N]: ``order[b, k]`` is the slot of the agent that is evaluated k-th.

Q = Callable[[Tensor], Tensor]


def ranks(order: Tensor) -> Tensor:
    """When each agent is evaluated, from 0: int [B, N] by place -> int [B, N] by slot."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, places)


def action_policy_vectors(actions: Tensor, policy: Tensor, order: Tensor) -> Tensor:
    """v^{1:k} = [u^1 .. u^k, pi^{k+1} .. pi^N] for k = 0 .. N (SeCA, sec. 3.2, policy learning).

    Args:
        actions: that were taken, int [B, N].
        policy: probabilities pi, [B, N, A].
        order: int [B, N].

    Returns:
        [B, N + 1, N, A], in agent slots.
    """
    taken = F.one_hot(actions, policy.shape[-1]).to(policy.dtype)
    count = torch.arange(actions.shape[-1] + 1, device=actions.device)
    known = ranks(order).unsqueeze(1) < count.unsqueeze(-1)  # [B, N + 1, N]
    return torch.where(known.unsqueeze(-1), taken.unsqueeze(1), policy.unsqueeze(1))


def sequential_credit(q: Q, actions: Tensor, policy: Tensor, order: Tensor) -> Tensor:
    """A^{a_i} = Q(v^{1:i}) - Q(v^{1:i-1}) (SeCA, eq. 5 with probabilities in place of sums).

    N + 1 values serve all agents, and the credits of a step add up to Q(u) - Q(pi). For a
    multilinear Q this is eq. 5 itself; else an approximation.

    Args:
        q: the critic in these states.
        actions: int [B, N].
        policy: [B, N, A].
        order: int [B, N].

    Returns:
        [B, N], in agent slots.
    """
    values = q(action_policy_vectors(actions, policy, order))  # [B, N + 1]
    return values.diff(dim=-1).gather(-1, ranks(order))


def counterfactual_credit(q: Q, actions: Tensor, policy: Tensor) -> Tensor:
    """A^a = Q(u) - Q(u with pi^a in the slot of a): COMA's advantage (eq. 3) on SeCA's critic.

    Args:
        q: the critic in these states.
        actions: int [B, N].
        policy: [B, N, A].

    Returns:
        [B, N], in agent slots.
    """
    agents = actions.shape[-1]
    taken = F.one_hot(actions, policy.shape[-1]).to(policy.dtype).unsqueeze(1)  # [B, 1, N, A]
    own = torch.eye(agents, dtype=torch.bool, device=actions.device).unsqueeze(-1)  # [N, N, 1]
    baselines = torch.where(own, policy.unsqueeze(1), taken)  # [B, N, N, A]
    values = q(torch.cat((taken, baselines), dim=1))  # [B, N + 1]
    return values[:, :1] - values[:, 1:]


def unexplained_return(q: Q, actions: Tensor, policy: Tensor, targets: Tensor) -> Tensor:
    """y - Q(u), which corrects credits for errors of Q (``return_correction``), [B].

    For u drawn from pi, the gradient E[grad log pi^a(u^a) (A^a + y - Q(u))] is that of E[y(u)], the
    mean of the targets, for any Q that does not depend on u: with the counterfactual credit Q(u)
    drops out, and what is left does not depend on u^a. With the sequential credit
    E[Q(u) | u^1 .. u^a] = Q(v^{1:a}) drops out, which holds for a multilinear Q and an order that
    does not depend on u. Targets bootstrap from the critic's copy, Q has taken its step on these
    very actions, and contributions are those of the path that followed: so it is nearly that.

    Args:
        q: the critic in these states.
        actions: int [B, N].
        policy: [B, N, A].
        targets: y, [B].
    """
    taken = F.one_hot(actions, policy.shape[-1]).to(policy.dtype).unsqueeze(1)  # [B, 1, N, A]
    return targets - q(taken).squeeze(1)


def path_contributions(
    critic: JointCritic, path: Path, points: int, steps_at_once: int | None = None
) -> tuple[Tensor, Tensor]:
    """c^a of each step of the path, which runs straight from (s_t, pi_t) to the next.

        c^a_t = mean_k < dQ/dpi^a (s_t + alpha_k ds, pi_t + alpha_k dpi), dpi^a >

    at the midpoints alpha_k = (k + 1/2) / K. With a constant state, the c^a of a path add up to the
    difference of Q between its ends, up to the error of the midpoint rule.

    Args:
        critic: Q.
        path: E sequences.
        points: K.
        steps_at_once: steps of the path in one pass, to bound memory; None for all.

    Returns:
        Contributions [E, T, N], and what else Q changes by at each step, the state's share [E, T];
        both 0 where the episode ends.
    """
    alpha = (torch.arange(points, device=path.state.device) + 0.5) / points
    alpha = torch.cat((alpha.new_zeros(1), alpha, alpha.new_ones(1)))  # [K + 2], with both ends
    found = []
    columns = (path.state[:, :-1], path.state[:, 1:], path.policy[:, :-1], path.policy[:, 1:])
    size = steps_at_once or path.not_done.numel()
    for state, next_state, policy, next_policy in zip(
        *(column.flatten(0, 1).split(size) for column in columns), strict=True
    ):
        states = torch.lerp(state.unsqueeze(1), next_state.unsqueeze(1), alpha.view(-1, 1))
        step = next_policy - policy  # [B, N, A]
        with torch.enable_grad():
            vectors = policy.unsqueeze(1) + alpha.view(-1, 1, 1) * step.unsqueeze(1)
            vectors = vectors.detach().requires_grad_()  # [B, K + 2, N, A]
            values = critic(states.flatten(0, 1), vectors.flatten(0, 1).unsqueeze(1))
            values = values.view(-1, points + 2)
            (gradient,) = torch.autograd.grad(values[:, 1:-1].mean(1).sum(), vectors)
        own = (gradient.sum(1) * step).sum(-1)  # [B, N]
        found.append((own, (values[:, -1] - values[:, 0]).detach() - own.sum(-1)))
    over = ~path.not_done
    contributions, beside = (torch.cat(parts) for parts in zip(*found, strict=True))
    contributions = contributions.view(*over.shape, -1).masked_fill(over.unsqueeze(-1), 0.0)
    return contributions, beside.view_as(over).masked_fill(over, 0.0)


def policy_scores(kind: str, policy: Tensor, actions: Tensor) -> Tensor:
    """Who is evaluated first, [..., N]: the largest number.

    Args:
        kind: ``probability`` of the action taken, or (little) ``entropy``.
        policy: [..., N, A].
        actions: int [..., N].
    """
    if kind == "probability":
        return policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return torch.xlogy(policy, policy).sum(-1)


def by_scores(scores: Tensor) -> Tensor:
    """Slots by falling scores, int [..., N]; equal ones in slot order."""
    return scores.argsort(dim=-1, descending=True, stable=True)


def over_windows(
    contributions: Tensor, is_first: Tensor, not_done: Tensor, window: int | None
) -> Tensor:
    """For every step the contributions of its window, [E, T, N].

    An episode's last step has no contributions of its own: it is of the window before, however
    long that is.

    Args:
        contributions: [E, T, N].
        is_first: bool [E, T].
        not_done: bool [E, T], whether the episode has a next step.
        window: steps per window, counted from the beginning of the episode or of the rollout; None
            for whole episodes.
    """
    begins = is_first
    if window is not None:
        t = torch.arange(is_first.shape[1], device=is_first.device)
        since = t - torch.where(is_first, t, 0).cummax(dim=1).values  # [E, T]
        begins = is_first | ((since % window == 0) & not_done)
    totals, group = _totals(contributions, begins)
    return totals.gather(1, group)


def of_previous_episode(
    contributions: Tensor, is_first: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """For every step the contributions of the environment's previous episode, [E, T, N].

    Args:
        contributions: [E, T, N].
        is_first: bool [E, T].
        before: [2, E, N], from the rollout before: the contributions so far of the episode that was
            not over there, and those of the episode before it. Random numbers at first.

    Returns:
        Those of each step, and ``before`` of the next rollout.
    """
    totals, group = _totals(contributions, is_first)
    totals[:, 0] += before[0]
    previous = torch.cat((before[1].unsqueeze(1), totals[:, :-1]), dim=1)
    scores = previous.gather(1, group)
    return scores, torch.stack((totals.gather(1, group)[:, -1], scores[:, -1]))


def _totals(x: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """Sums [E, T + 1, N] of ``x`` over groups of steps, and each step's group, int [E, T, N].

    A group begins where ``begins`` says; group 0 is what was there before the first beginning.
    """
    group = begins.cumsum(dim=1).unsqueeze(-1).expand_as(x)
    envs, steps, agents = x.shape
    return x.new_zeros(envs, steps + 1, agents).scatter_add(1, group, x), group


@dataclass(kw_only=True)
class SeCABatch(CentralQBatch):
    """Adds the order in which the agents are evaluated."""

    order: Tensor = SET_LATER  # slots, int [E, T, N]


class SeCALearner(CentralQLearner[SeCABatch, RecurrentModule]):
    """Score-function gradient with the advantage of a sequential evaluation."""

    batch_class = SeCABatch

    # -- order of evaluation -----------------------------------------------------------------

    def extend_train_batch(self, batch: SeCABatch, path: Path) -> SeCABatch:
        """Adds the order of evaluation."""
        return batch.replace(order=by_scores(self._scores(batch, path)))

    def _scores(self, batch: SeCABatch, path: Path) -> Tensor:
        """Who is evaluated first, [E, T, N]: the largest number."""
        actions, extra = batch.actions, self.extra_state
        if self.config.order in ("probability", "entropy"):
            return policy_scores(self.config.order, path.policy[:, :-1], actions)
        if self.config.order == "fixed":
            # Another team's are of another length. The sum is the same for all learners.
            if EVALUATION_SCORES not in extra or len(extra[EVALUATION_SCORES]) != actions.shape[-1]:
                draw = torch.rand(actions.shape[-1], generator=self.generator)
                extra[EVALUATION_SCORES] = self.sum_over_learners(draw.to(self.device))
            return extra[EVALUATION_SCORES].expand(actions.shape)
        contributions = self._contributions(path)
        if self.config.order_source == "own_episode":
            window = self.config.order_window
            return over_windows(contributions, batch.is_first, path.not_done, window)
        before = extra.get(EVALUATION_SCORES)
        if before is None or before.shape[1:] != contributions[:, 0].shape:
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
        self.log_once(state_share=float(share))
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
            if config.return_correction:
                targets = batch.targets.flatten()
                rest = unexplained_return(q, actions, policy, targets)
                advantage = advantage + rest.unsqueeze(-1)  # [B, N]
        advantage, weight = advantage.view_as(batch.actions), batch.policy_weight
        policy_loss = -weighted_sum(fwd_out.log_prob.squeeze(-1) * advantage, weight)
        ratio = adaptive_entropy(fwd_out.entropy, batch.mean_entropy)  # H / stop_gradient(H)
        loss = policy_loss - self.scheduled("entropy_coeff") * weighted_sum(ratio, weight)
        self.log_metrics(
            policy_loss=policy_loss,
            entropy=weighted_sum(fwd_out.entropy, weight),
            advantage_square=weighted_sum(advantage.square(), weight),
            total_loss=loss,
        )
        return loss


class SeCA(TeamAlgorithm):
    """Sequential credit assignment."""

    @classmethod
    def get_default_config(cls) -> SeCAConfig:
        """The builder with this algorithm's defaults."""
        return SeCAConfig()
