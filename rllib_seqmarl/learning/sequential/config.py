"""Settings of the decision order, for every algorithm whose agents decide one after another."""

from __future__ import annotations

from typing import Any, ClassVar

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.config import TeamConfig
from rllib_seqmarl.nets.orders.given import GRANULARITIES
from rllib_seqmarl.nets.orders.next_agent import NEXT_AGENT_HEADS
from rllib_seqmarl.registry import ORDERS


class OrderConfig(TeamConfig):
    """Who decides when, and how that is learned; see `nets.orders`.

    Attributes:
        order: ``index``, ``reverse``, ``random``, ``plackett_luce`` or ``next_agent``. What
            follows is of effect with one of them.
        order_granularity: random: a new order at every ``step`` or for every ``episode``.
        ranking_coeff: plackett_luce: c_rank.
        ranking_layers: plackett_luce: hidden layers of the scorer.
        share_hidden: plackett_luce: all but the first of them are one layer, as published.
        next_agent_head: next_agent: ``mlp``, for a fixed N, or ``pointer``, for any.
        first_agent: next_agent: i_1, the slot that decides first.
        next_agent_loss: next_agent: ``product`` (eq. 6) or ``sum`` (eq. 7) of the ratios.
        next_agent_advantage: next_agent: ``per_agent`` or the team's ``mean``.
        alpha1: next_agent, ``sum``: weight of the actions.
        alpha2: next_agent, ``sum``: weight of the choices of a successor.
        order_entropy_coeff: weight of the entropy of a learned order (beta_2 of AOAD-MAT).
    """

    _CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "order": tuple(ORDERS),
        "order_granularity": GRANULARITIES,
        "next_agent_head": NEXT_AGENT_HEADS,
        "next_agent_loss": ("product", "sum"),
        "next_agent_advantage": ("per_agent", "mean"),
    }
    _WHOLE: ClassVar[set[str]] = TeamConfig._WHOLE | {"ranking_layers", "first_agent"}
    _POSITIVE: ClassVar[set[str]] = TeamConfig._POSITIVE | {"ranking_layers"}
    _NOT_NEGATIVE: ClassVar[set[str]] = TeamConfig._NOT_NEGATIVE | {
        "ranking_coeff",
        "first_agent",
        "alpha1",
        "alpha2",
        "order_entropy_coeff",
    }

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class)
        self.order = "index"
        self.order_granularity = "step"
        self.ranking_coeff = 1e-4
        self.ranking_layers = 2
        self.share_hidden = False
        self.next_agent_head = "mlp"
        self.first_agent = 0
        self.next_agent_loss = "product"
        self.next_agent_advantage = "per_agent"
        self.alpha1 = 1.0
        self.alpha2 = 1.0
        self.order_entropy_coeff = 0.0

    def validate(self) -> None:
        """See `TeamConfig.validate`."""
        super().validate()
        if self.order == "next_agent" and not self.autoregressive:
            raise UserError(
                "order 'next_agent' needs autoregressive: true: agents who see no actions cannot "
                "say who decides next."
            )

    def order_settings(self) -> dict[str, Any]:
        """What the class of the order takes."""
        settings: dict[str, dict[str, Any]] = {
            "random": {"granularity": self.order_granularity},
            "plackett_luce": {"layers": self.ranking_layers, "share_hidden": self.share_hidden},
            "next_agent": {"head": self.next_agent_head, "first_agent": self.first_agent},
        }
        return settings.get(self.order, {})
