"""MAT and SrSv without Ray: a loop around the same networks, envs and losses, timed part by part.

Imported by `overhead.py`, as the least that training costs, and by `gpu.py`, because it runs on any
device and where Ray is not installed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rllib_seqmarl import registry
from rllib_seqmarl.losses import clipped_surrogate, clipped_value_loss, probability_ratio
from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.nets.sequential_policy import SequentialPolicy
from rllib_seqmarl.nets.transformer.model import ActionSpec
from rllib_seqmarl.returns import ValueNorm, generalized_advantages

#: Algorithm -> its value function.
VALUES = {"MAT": "encoder", "SrSv": "sequential"}


@dataclass
class Timer:
    """Seconds by part; a GPU has done its work when a part ends."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        wait(self.device)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin


def wait(device: torch.device) -> None:
    """Until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class BareLoop:
    """One training.

    Args:
        algorithm: a key of `VALUES`.
        map_name: of SMAX.
        envs: E.
        steps: T of every env per iteration.
        epochs: passes over them, of one gradient step each.
        micro_batch: env steps per forward and backward pass.
        device: of the networks.
        on_device: the envs' arrays are handed over where they are, by DLPack; otherwise through
            NumPy.
    """

    def __init__(
        self,
        algorithm: str,
        map_name: str,
        *,
        envs: int,
        steps: int,
        epochs: int,
        micro_batch: int = 400,
        device: torch.device | str = "cpu",
        on_device: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.envs, self.steps, self.epochs = envs, steps, epochs
        self.micro_batch, self.on_device = micro_batch, on_device
        self.device = torch.device(device)
        self.env: Any = registry.environment("smac").make(envs, map_name=map_name)
        agents, width = self.env.single_observation_space["obs"].shape
        self.agents = agents
        size = int(self.env.single_action_space.nvec[0])
        self.policy = SequentialPolicy(
            obs_dim=width,
            action=ActionSpec(size, discrete=True),
            num_agents=agents,
            value=VALUES[algorithm],
            decoding="auto",
        ).to(self.device)
        self.norm = ValueNorm().to(self.device)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=5e-4, eps=1e-5)
        self.timer = Timer(self.device)
        reset = self.env.reset_on_device if on_device else self.env.reset
        self.last = self._tensors(reset(seed=0)[0])

    def _tensors(self, arrays: dict[str, Any]) -> dict[str, Tensor]:
        if self.on_device:
            return {k: torch.from_dlpack(v) for k, v in arrays.items()}
        return {k: torch.from_numpy(v).to(self.device) for k, v in arrays.items()}

    def _step(self, actions: Tensor) -> dict[str, Tensor]:
        """Reward and ends; the next observation is in ``last``."""
        with self.timer("hand-over"):
            there = actions.int().contiguous() if self.on_device else actions.cpu().numpy()
        with self.timer("environment"):
            if self.on_device:
                obs, reward, terminated, truncated = self.env.step_on_device(there)
                reward.block_until_ready()
            else:
                obs, reward, terminated, truncated, _ = self.env.step(there)
        with self.timer("hand-over"):
            self.last = self._tensors(obs)
            ends = {"reward": reward, "terminated": terminated, "truncated": truncated}
            return self._tensors(ends)

    def rollout(self) -> dict[str, Tensor]:
        """Columns [T, E, ...]."""
        columns: dict[str, list[Tensor]] = {}
        for _ in range(self.steps):
            seen = self.last
            with self.timer("decode"):
                decision = self.policy.act(seen["obs"], seen["action_mask"], deterministic=False)
            row = {"obs": seen["obs"], "action_mask": seen["action_mask"]}
            row |= {"actions": decision.actions, "old": decision.log_prob}
            row |= self._step(decision.actions)
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        return {name: torch.stack(values) for name, values in columns.items()}

    @torch.no_grad()
    def _values(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Normalised values of rows, and what they were given."""
        values, prepared = [], []
        for start in range(0, len(batch["obs"]), self.micro_batch):
            some = {k: v[start : start + self.micro_batch] for k, v in batch.items()}
            of = some["obs"], some["action_mask"], some["actions"]
            inputs = self.policy.prepare_value(*of)
            values.append(self.policy.values(of[0], of[2], None, inputs))
            if inputs is not None:
                prepared.append(inputs)
        return torch.cat(values), self.policy.value.join(prepared) if prepared else None

    def update(self, c: dict[str, Tensor]) -> None:
        """``epochs`` gradient steps on columns."""
        batch = {k: c[k].flatten(0, 1) for k in ("obs", "action_mask", "actions", "old")}
        with self.timer("values"), torch.no_grad():
            old_values, prepared = self._values(batch)  # [T E, N]
            after = {k: self.last[k] for k in ("obs", "action_mask")}
            after["actions"] = self.policy.act(*after.values(), deterministic=False).actions
            raw = torch.cat((old_values, self._values(after)[0])).unflatten(0, (-1, self.envs))
            values = self.norm.denormalize(raw)  # [T + 1, E, N]
            ends = c["reward"], values[:-1], values[1:], c["terminated"], c["truncated"]
            advantages = generalized_advantages(*ends, gamma=0.99, lambda_=0.95)
            returns = (advantages + values[:-1]).flatten(0, 1)
            advantages = ((advantages - advantages.mean()) / advantages.std()).flatten(0, 1)
        with self.timer("update"):
            for _ in range(self.epochs):
                self.norm.update(returns.mean(), returns.square().mean())
                targets = self.norm.normalize(returns)
                self.optimizer.zero_grad()
                for start in range(0, len(returns), self.micro_batch):
                    p = slice(start, start + self.micro_batch)
                    of = batch["obs"][p], batch["action_mask"][p], batch["actions"][p]
                    out = self.policy.evaluate(*of, None, None if prepared is None else prepared[p])
                    ratio = probability_ratio(out.log_prob, batch["old"][p], "per_dim")
                    loss = clipped_surrogate(ratio, advantages[p], 0.05) - 0.01 * out.entropy
                    of_values = out.values, old_values[p], targets[p]
                    loss = loss + clipped_value_loss(*of_values, 0.05, 10.0)
                    (loss.sum() / returns.numel()).backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 10.0)
                self.optimizer.step()

    def iterate(self) -> float:
        """One iteration; its seconds."""
        begin = time.perf_counter()
        with multiply_with("auto"):  # as learners and runners do
            self.update(self.rollout())
        wait(self.device)
        return time.perf_counter() - begin
