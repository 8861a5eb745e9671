"""What the ``env_config`` of every environment has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rllib_seqmarl.settings import Doc, OldValue, as_dict, read, settings

if TYPE_CHECKING:
    from numpy.typing import NDArray


@settings
class TeamEnvConfig:
    """The base of the environments' classes of settings."""

    autoreset: Annotated[
        Literal["same_step", "next_step"],
        Doc(
            "``same_step``: the step that ends an episode returns the first observation of the "
            "next one; ``next_step``: the step after it does (for RLlib's own env runners)."
        ),
    ] = "same_step"

    @property
    def reward_per_agent(self) -> bool:
        """Whether every agent has a reward of its own, known before anything is built."""
        return False


#: The setting of which reward is learned from.
Reward = Annotated[
    Literal["team", "mean", "per_agent"],
    OldValue("sum", "team"),
    Doc(
        "What is learned from: ``team``, the sum over agents, their ``mean``, or ``per_agent``, "
        "each agent's own; the return of an episode is then the sum over agents."
    ),
]


@settings
class PaidAgentsConfig(TeamEnvConfig):
    """The base where a reward of every agent is known, from which the team's is made."""

    reward: Reward = "team"

    @property
    def reward_per_agent(self) -> bool:
        """See `TeamEnvConfig.reward_per_agent`."""
        return self.reward == "per_agent"

    def paid(self, rewards: NDArray[Any]) -> NDArray[Any]:
        """What a step pays, of all agents' rewards [..., N]: [...], or ``rewards`` themselves."""
        if self.reward == "per_agent":
            return rewards
        total: NDArray[Any] = rewards.sum(-1) if self.reward == "team" else rewards.mean(-1)
        return total


def check_env_config(
    env_config: Mapping[str, Any], defaults: Mapping[str, Any], env_name: str
) -> dict[str, Any]:
    """``defaults`` overwritten by ``env_config``, every key known and of its default's type.

    A class of settings (see `rllib_seqmarl.settings`) says more: bounds, choices and sentences.

    Raises:
        UserError: unknown key (the line names the nearest one), wrong type, or a real number
            that is NaN, infinite or too large for a float.
    """
    declared = [(key, type(value), field(default=value)) for key, value in defaults.items()]
    cls = make_dataclass("EnvConfig", declared, kw_only=True)
    return as_dict(read(cls, env_config, f"{env_name}: env_config"))
