"""Teams whose agents decide one after another: MAT and its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl.columns import ACTION_MASK, NEIGHBOURS, OBS, ORDER
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.nets.acting.base import TeamActor, TeamDecision, TeamInputs
from rllib_seqmarl.nets.decoding.decode import Decoding
from rllib_seqmarl.nets.encoders.reader import ObservationReader
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy


class SequentialActor(TeamActor):
    """A `SequentialPolicy`, and the orders that it keeps for an episode."""

    kind = "sequential"
    policy: SequentialPolicy
    attends_to_neighbours: bool

    def build_actor(self, inputs: TeamInputs, settings: Mapping[str, Any]) -> None:
        """See `TeamActor`; settings are those of `SequentialPolicy`, and two more.

        These are ``attention`` and ``observation_encoder``.
        """
        arguments = dict(settings)
        self.attends_to_neighbours = arguments.pop("attention", "all") == "neighbours"
        if self.attends_to_neighbours and NEIGHBOURS not in inputs.observation:
            raise UserError(
                "attention 'neighbours' needs an environment that names them, such as dubins_car "
                "with `neighbours: true` in its env_config: set that, or attention 'all'."
            )
        self.num_agents = inputs.num_agents
        encoder = arguments.pop("observation_encoder", None)  # version 0.2 had none
        reader = ObservationReader(inputs.layout, encoder, arguments["embed_dim"])
        self.policy = SequentialPolicy(
            obs_dim=reader.output_size,
            reader=reader,
            action=inputs.action,
            num_agents=inputs.num_agents,
            **arguments,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """See `TeamActor`."""
        neighbours = (NEIGHBOURS,) if self.attends_to_neighbours else ()
        return (OBS, ACTION_MASK, *neighbours)

    def get_initial_state(self) -> dict[str, Tensor]:
        """What is handed from step to step: an order that is kept, -1 where there is none.

        Returns:
            Of one environment, ``order`` [N]; nothing where every step has an order of its own.
        """
        if not self.policy.order.kept_for_episode:
            return {}
        return {ORDER: torch.full((self.num_agents,), -1)}

    def prepare_export(self) -> None:
        """Decodes with a number of steps that is known beforehand."""
        self.policy.decode = Decoding("cached")

    def act(
        self,
        columns: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        is_first: Tensor,
        *,
        deterministic: bool,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> TeamDecision:
        """See `TeamActor`."""
        previous = state.get(ORDER)
        if previous is not None:
            previous = previous.masked_fill(is_first.unsqueeze(-1), -1)
        decision = self.policy.act(
            columns[OBS],
            columns.get(ACTION_MASK),
            deterministic=deterministic,
            generator=generator,
            previous=previous,
            neighbours=columns[NEIGHBOURS] if self.attends_to_neighbours else None,
            noise=noise,
        )
        kept = {}
        if self.policy.order.kept_for_episode and decision.order is not None:
            kept = {ORDER: decision.order}
        return TeamDecision(
            decision.actions, decision.log_prob, kept, decision.order, decision.order_log_prob
        )
