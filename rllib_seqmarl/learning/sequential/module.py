"""The RLModule shell around `SequentialPolicy`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor
from typing_extensions import Self

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.orders.orders import ChosenOrder
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec
from rllib_seqmarl.nets.value_norm import ValueNorm
from rllib_seqmarl.nets.values.values import GreedyContinuations
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ACTIONS,
    IS_FIRST,
    LOG_PROB,
    NEIGHBOURS,
    OBS,
    ORDER,
    ORDER_LOG_PROB,
)

#: Columns of `SequentialModule.forward_train` beside the log-prob.
ENTROPY = "entropy"
VALUES = "values"
COMPLETIONS = "completions"
#: Agents that have a completion, bool [B, N], the same in all rows; where missing, all have.
COMPLETED = "completed"
ORDER_ENTROPY = "order_entropy"
ORDER_SCORES = "order_scores"


def action_spec(space: spaces.Space[Any]) -> ActionSpec:
    """What one agent may do, from the action space of one world.

    Raises:
        UserError: neither ``MultiDiscrete([A] * N)`` nor ``Box [N, A]``.
    """
    if isinstance(space, spaces.MultiDiscrete) and len(set(space.nvec.tolist())) == 1:
        return ActionSpec(int(space.nvec[0]), discrete=True)
    if isinstance(space, spaces.Box) and len(space.shape) == 2:
        return ActionSpec(space.shape[1], discrete=False)
    raise UserError(
        f"the action space {space} is not that of a team: it must be MultiDiscrete([A] * N) "
        "or Box of shape [N, A]."
    )


def obs_dim(space: spaces.Space[Any]) -> int:
    """Width D of one agent's observation, from the observation space of one world.

    Raises:
        UserError: not a Dict with ``obs`` [N, D].
    """
    if isinstance(space, spaces.Dict) and OBS in space.spaces:
        shape = space[OBS].shape
        if shape is not None and len(shape) == 2:
            return int(shape[1])
    raise UserError(
        f"the observation space {space} is not that of a team: it must be a Dict with "
        "'obs' of shape [N, D], 'alive' [N], and 'action_mask' [N, A] for discrete actions."
    )


def completed_agents(rows: Mapping[str, Tensor]) -> Tensor | None:
    """The agents that have a completion in rows of columns, int [I], ascending; None: all."""
    completed = rows.get(COMPLETED)
    return None if completed is None else completed[0].nonzero().squeeze(-1)


class TeamModule(TorchRLModule, InferenceOnlyAPI):
    """What all modules of a team share: one way to act, greedily or not."""

    def train(self, mode: bool = True) -> Self:
        """Changes the mode where it differs: RLlib sets it before and after every step."""
        return self if mode == self.training else super().train(mode)

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, deterministic=True, **kwargs)

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, deterministic=False, **kwargs)

    def carried(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """What the policy remembers of B worlds, and where that is of no effect.

        Returns:
            As of ``get_initial_state``, with a leading axis B; and bool [B], worlds in which an
            episode begins. Where a batch says nothing of them, they begin with the initial state.
        """
        obs = batch[Columns.OBS][OBS]
        memory, is_first = batch.get(Columns.STATE_IN), batch.get(IS_FIRST)
        if memory is None:
            initial = self.get_initial_state()
            memory = {k: v.expand(len(obs), *v.shape) for k, v in initial.items()}
        if is_first is None:
            is_first = obs.new_zeros(len(obs), dtype=torch.bool)
        return memory, is_first

    @abstractmethod
    def _act(
        self,
        batch: dict[str, Any],
        deterministic: bool,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What the runner stores: actions, log-prob, and what is handed to the next step."""


class SequentialModule(TeamModule):
    """Policy and value normalisation of a team; ``model_config`` is that of the policy.

    On rollout processes the value function and its normalisation are left out.
    """

    policy: SequentialPolicy
    value_norm: ValueNorm

    def setup(self) -> None:
        """Builds the networks from the spaces of one world."""
        settings = dict(self.model_config)
        beta = settings.pop("value_norm_beta")
        self._local = settings.pop("attention", "all") == "neighbours"
        if self._local and NEIGHBOURS not in self.observation_space.spaces:
            raise UserError(
                "attention 'neighbours' needs an environment that names them, such as dubins_car "
                "with `neighbours: true` in its env_config: set that, or attention 'all'."
            )
        self.policy = SequentialPolicy(
            obs_dim=obs_dim(self.observation_space),
            action=action_spec(self.action_space),
            num_agents=self.action_space.shape[0],
            **settings,
        )
        self.value_norm = ValueNorm(beta)
        if self.inference_only:
            # RLlib removes top-level attributes only, though it names nested ones by their path.
            del self.policy.value

    def neighbours(self, columns: Mapping[str, Tensor]) -> Tensor | None:
        """Whom agents hear, int [B, N, K]; None: all."""
        return columns[NEIGHBOURS] if self._local else None

    def get_non_inference_attributes(self) -> list[str]:
        """What acting does not need."""
        return ["policy.value", "value_norm"]

    def get_initial_state(self) -> dict[str, Tensor]:
        """What the rollout hands from step to step: an order that is kept, -1 where there is none.

        Returns:
            Of one world, ``order`` [N]; nothing where every step has an order of its own.
        """
        if not self._keeps_order:
            return {}
        return {ORDER: torch.full((self.action_space.shape[0],), -1)}

    @property
    def _keeps_order(self) -> bool:
        return isinstance(self.policy.order, ChosenOrder) and self.policy.order.kept

    def _act(
        self,
        batch: dict[str, Any],
        deterministic: bool,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        obs = batch[Columns.OBS]
        previous = batch.get(Columns.STATE_IN, {}).get(ORDER)
        if previous is not None:
            previous = previous.masked_fill(batch[IS_FIRST].unsqueeze(-1), -1)
        decision = self.policy.act(
            obs[OBS],
            obs.get(ACTION_MASK),
            deterministic=deterministic,
            generator=generator,
            previous=previous,
            neighbours=self.neighbours(obs),
        )
        out = {ACTIONS: decision.actions, LOG_PROB: decision.log_prob}
        if decision.order is not None:
            out[ORDER] = decision.order
        if decision.order_log_prob is not None:
            out[ORDER_LOG_PROB] = decision.order_log_prob
        if self._keeps_order:
            return {**out, Columns.STATE_OUT: {ORDER: decision.order}}
        return out

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Rows of columns -> log-prob [B, N, K], entropy [B, N], normalised values [B, N].

        Where orders are learned, also what `OrderEvaluation` says of them.
        """
        completions = None
        if COMPLETIONS in batch:
            completions = GreedyContinuations(batch[COMPLETIONS], completed_agents(batch))
        evaluation = self.policy.evaluate(
            batch[OBS],
            batch.get(ACTION_MASK),
            batch[ACTIONS],
            batch.get(ORDER),
            completions,
            self.neighbours(batch),
        )
        out = {
            LOG_PROB: evaluation.log_prob,
            ENTROPY: evaluation.entropy,
            VALUES: evaluation.values,
        }
        if evaluation.order is not None:
            out[ORDER_LOG_PROB] = evaluation.order.log_prob
            out[ORDER_ENTROPY] = evaluation.order.entropy
            if evaluation.order.scores is not None:
                out[ORDER_SCORES] = evaluation.order.scores
        return out
