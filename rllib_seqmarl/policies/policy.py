"""A trained policy: observations of a team in, its joint action out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.nets.acting.base import TeamActor, TeamInputs
from rllib_seqmarl.policies.observations import to_tensors


class Decision(NamedTuple):
    """What a team does, in agent slots; with an axis B in front where there are several teams."""

    actions: NDArray[Any]  # int64 [N], float32 [N, A], or of several parts float32 [N, P + C]
    log_prob: NDArray[np.float32]  # of each agent's action, given those before it, [N]
    order: NDArray[np.int64]  # the slots in the order in which they decided, [N]


class Policy:
    """A trained policy, with what it remembers of the episodes under way.

    Args:
        actor: the network, with its weights.
        inputs: what it was built for.
        algorithm: the name of the algorithm that trained it.
        env: the name of the environment that it was trained in.
        env_config: that environment's settings.
        device: where it computes.
        foreign_env: import paths among the two, of a file that is not trusted: reading these then
            raises, so that nobody makes an environment of code that a stranger named.

    Attributes:
        num_agents: N.
    """

    def __init__(
        self,
        actor: TeamActor,
        inputs: TeamInputs,
        *,
        algorithm: str,
        env: str,
        env_config: Mapping[str, Any],
        device: str | torch.device = "cpu",
        foreign_env: Sequence[str] = (),
    ) -> None:
        try:
            self.device = torch.device(device)
            self.actor = actor.to(self.device).eval()
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"device {str(device)!r} cannot be used here: {reason}") from error
        self.inputs = inputs
        self.num_agents = inputs.num_agents
        self.algorithm = algorithm
        self._env, self._env_config, self._foreign_env = env, dict(env_config), foreign_env
        # On the CPU, as in training: equal seeds draw equal actions on every device.
        self._generator = torch.Generator()
        self._generator.seed()
        self._state: dict[str, Tensor] = {}
        self._is_first: NDArray[np.bool_] | None = None  # [B]; None: before the first step

    def __repr__(self) -> str:
        return f"Policy({self.algorithm} on {self._env}, {self.num_agents} agents)"

    @property
    def env(self) -> str:
        """The name of the environment that it was trained in.

        Raises:
            UserError: it, or ``env_config``, names code, and the file is not trusted.
        """
        self._check_trusted()
        return self._env

    @property
    def env_config(self) -> dict[str, Any]:
        """That environment's settings.

        Raises:
            UserError: as of `env`.
        """
        self._check_trusted()
        return self._env_config

    def _check_trusted(self) -> None:
        if self._foreign_env:
            raise UserError(
                f"the file of this policy names code of an environment: "
                f"{', '.join(self._foreign_env)}. If you know it and trust it, load the policy "
                "with trust_imports=True, or name the environment yourself."
            )

    def reset(
        self,
        env_indices: Sequence[int] | NDArray[Any] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        """Begins new episodes: recurrent states and kept orders of before are forgotten.

        Args:
            env_indices: in which of the B environments, their numbers or bool [B]; None: in all,
                and their number may be another one from here on.
            seed: of what is drawn from here on.

        Raises:
            UserError: environments that are not there.
        """
        if seed is not None:
            if (
                isinstance(seed, bool)
                or not isinstance(seed, int | np.integer)
                or abs(seed) >= 2**63
            ):
                raise UserError(f"reset: seed must be a whole number of 64 bits, got {seed!r}.")
            self._generator.manual_seed(seed)
        if env_indices is None:
            self._is_first = None
            return
        if self._is_first is None:
            raise UserError("reset: no environment is under way: give no env_indices before act.")
        count = len(self._is_first)
        try:
            chosen = np.asarray(env_indices)
        except ValueError:
            raise UserError(f"reset: env_indices is no array: {env_indices!r}.") from None
        if chosen.dtype == np.bool_:
            fits = chosen.shape == (count,)
        else:
            chosen = chosen.astype(np.int64) if chosen.size == 0 else chosen
            fits = chosen.dtype.kind in "iu" and bool(((chosen >= 0) & (chosen < count)).all())
        if not fits:
            raise UserError(
                f"reset: env_indices must be numbers below {count}, or booleans of shape "
                f"[{count}], got {env_indices!r}."
            )
        self._is_first[chosen] = True

    def act(self, observations: Mapping[str, Any], *, deterministic: bool = True) -> Decision:
        """Decides for one team, or for the teams of B environments.

        Args:
            observations: name -> array, as an environment's ``reset`` and ``step`` return them:
                ``obs`` [N, D], ``action_mask`` bool [N, A] where there is one, ...; of B
                environments with an axis B in front of all.
            deterministic: every agent takes its most likely action; otherwise actions are drawn.

        Raises:
            UserError: observations of another form than the policy's, or of another number of
                environments than at the step before.
        """
        columns, batched = to_tensors(observations, self.inputs, self.actor.columns, self.device)
        count = len(next(iter(columns.values())))
        if self._is_first is None:
            self._is_first = np.ones(count, np.bool_)
            self._state = {
                name: value.expand(count, *value.shape).to(self.device)
                for name, value in self.actor.get_initial_state().items()
            }
        elif len(self._is_first) != count:
            raise UserError(
                f"act: observations of {count} environments, and of {len(self._is_first)} at the "
                "step before: call reset() where episodes of another number begin."
            )
        with multiply_with("auto"), torch.no_grad():
            decision = self.actor.act(
                columns,
                self._state,
                torch.from_numpy(self._is_first).to(self.device),
                deterministic=deterministic,
                generator=self._generator,
            )
        self._state = decision.state
        self._is_first = np.zeros(count, np.bool_)
        order = decision.order
        if order is None:
            order = torch.arange(self.num_agents).expand(count, -1)
        parts = (decision.actions, decision.log_prob.sum(-1), order)
        arrays = [np.array(part.cpu().numpy()) for part in parts]
        return Decision(*(arrays if batched else [array[0] for array in arrays]))
