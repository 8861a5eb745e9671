"""Settings of a team whose agents decide one after another: its network, order and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.config import TeamConfig, TeamSettings
from rllib_seqmarl.learning.sequential.module import SequentialModule
from rllib_seqmarl.nets.networks import check_network, value_class
from rllib_seqmarl.registry import ORDERS
from rllib_seqmarl.settings import Choice, Doc, Ge, Gt, Layers, Le, Width, settings, settings_of


@settings
class SequentialSettings(TeamSettings):
    """Settings of the network, of the order of decisions and of the value."""

    network: Annotated[
        str, Choice("network"), Doc("what the team is made of (see `nets.networks`).")
    ] = "transformer"
    embed_dim: Annotated[Width, Doc("width d of encoder and decoder.")] = 64
    num_blocks: Annotated[Layers, Doc("blocks of each.")] = 1
    num_heads: Annotated[int, Gt(0), Doc("attention heads; divides ``embed_dim``.")] = 1
    attention: Annotated[
        Literal["all", "neighbours"],
        Doc("whom agents attend to: all, or the neighbours that the environment names."),
    ] = "all"
    order: Annotated[str, Choice("order"), Doc("who decides when (see `nets.orders`).")] = "index"
    order_granularity: Annotated[
        Literal["step", "episode"],
        Doc("order ``random``: another order at every step, or for every episode."),
    ] = "step"
    value: Annotated[
        str, Choice("value"), Doc("what each agent's baseline sees (see `nets.values`).")
    ] = "encoder"
    autoregressive: Annotated[
        bool, Doc("false: the predecessors' actions are hidden from the decoder.")
    ] = True
    decode: Annotated[
        Literal["auto", "parallel", "cached", "stepwise"],
        Doc("""how N actions are decoded (see `nets.decoding`); with a ``seed``, ``auto`` is
        ``parallel``, because a choice by the clock could not be repeated."""),
    ] = "auto"
    value_norm_beta: Annotated[
        float, Ge(0), Le(1), Doc("weight of the running statistics of the returns.")
    ] = 0.99999


class SequentialConfig(TeamConfig, SequentialSettings):
    """The config of a team whose agents decide one after another."""

    #: The order that the algorithm's loss trains; None: orders that are given.
    learned_order: ClassVar[str | None] = None

    def check(self) -> None:
        """See `TeamConfig.check`."""
        super().check()
        order_class = ORDERS.resolve(self.order)
        if self.learned_order is not None and order_class is not ORDERS.resolve(self.learned_order):
            raise UserError(
                f"this algorithm learns its order {self.learned_order!r}: for order "
                f"{self.order!r} write `run: MAT`."
            )
        learner = order_class.learned_by
        if self.learned_order is None and learner is not None:
            value = "" if self.value_function == "encoder" else f", `value: {self.value_function}`"
            raise UserError(
                f"order {self.order!r} is learned by the loss of {learner}: write `run: {learner}`"
                f"{value}."
            )
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

    def check_reward_per_agent(self) -> None:
        """Every agent has its value, and so its advantage, whatever it is paid."""

    @property
    def value_function(self) -> str:
        """What each agent's baseline sees: a name of `registry.VALUES`, or an import path."""
        return self.value

    def _arguments(self, of: Mapping[str, str]) -> dict[str, object]:
        """Settings -> arguments of an order or a value, as far as this algorithm has the settings.

        Where it has not, as PMAT with SrSv's value, the argument is left at its default.
        """
        names = settings_of(type(self))
        return {argument: getattr(self, name) for name, argument in of.items() if name in names}

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The policy with the parts that this config names."""
        seeded = self.decode == "auto" and self.seed is not None
        value = value_class(self.network, self.value_function)
        return RLModuleSpec(
            module_class=SequentialModule,
            model_config={
                "observation_encoder": self.observation_encoder,
                "network": self.network,
                "embed_dim": self.embed_dim,
                "num_blocks": self.num_blocks,
                "num_heads": self.num_heads,
                "attention": self.attention,
                "order": self.order,
                "order_settings": self._arguments(ORDERS.resolve(self.order).settings),
                "value": self.value_function,
                "autoregressive": self.autoregressive,
                "decoding": "parallel" if seeded else self.decode,
                "value_settings": self._arguments(value.settings),
                "value_norm_beta": self.value_norm_beta,
            },
        )
