"""SrSv: Sequential Rollout with Sequential Value estimation.

MAT's encoder without its value head, MAT's decoder, and a value that is sequential like the
policy. In the paper's symbols:

- eq. 5: V^i is the value of agents i..N acting by their policies, given the actions that agents
  1..i-1 really took. The expectation over the successors is one greedy continuation.
- eq. 6: V^i = sum_j w_{N+1,j} f_theta(o_hat^j, e^{j-1}), read at a position N + 1 whose query
  is o_hat^i (readable in `nets.values.sequential_reference`, fast in `nets.values.sequential`).
- eq. 7: regression of V^i on its return. Printed without a square; here clipped Huber, as MAT.
- eq. 8: PPO clip per agent with the advantage A^i.
- eq. 9: A^i by GAE over V^i at t and t + 1 (the printed sum has a fixed t: read t + j). V^i at
  t + 1 needs the actions at t + 1: those taken, or sampled ones at the end of a rollout or at a
  truncation.
- eq. 13: "w/o pi", ``use_successor_policy: false``: V^i sees the predecessors' actions only.

The authors published no code and no hyper-parameters: what is not printed is MAT's. Readings
chosen: e^{j-1} is the last block's output at the position whose newest token is a^{j-1}; w is
the last block's cross-attention, mean over heads, with its gradient; f_theta has the shape of
MAT's value head on 2d inputs.

``successors`` sets how fresh the greedy continuation is: ``greedy`` computes it once per
iteration, ``greedy_per_minibatch`` before every gradient step (Algorithm 1 to the letter),
``teacher_forced`` takes each successor's most likely action given the actions really taken.

The ablations of Fig. 6 are other networks (`nets.networks`), with the same value: ``network: mlp``
(SrSv-mlp), ``gnn`` (SrSv-gnn), ``encoder`` (SrSv-enc) and ``decoder`` (SrSv-dec). With a fixed
mixture of positions (mlp, gnn), w is its last row. The paper names these networks and shows no
equation: what is not said is read so that w keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor

from rllib_seqmarl.algorithms.mat import MAT, MATConfig, MATLearner, MATSettings
from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.sequential.module import SequentialBatch
from rllib_seqmarl.nets.networks import value_class
from rllib_seqmarl.nets.orders.base import to_slots
from rllib_seqmarl.nets.values.sequential import SequentialValue
from rllib_seqmarl.settings import Choice, Doc, Gt, settings, training_method


@settings
class SrSvSettings(MATSettings):
    """Settings of SrSv: MAT's, with another value."""

    value: Annotated[
        str, Choice("value"), Doc("what each agent's baseline sees (see `nets.values`).")
    ] = "sequential"
    use_successor_policy: Annotated[bool, Doc("""false: the paper's "w/o pi".""")] = True
    successors: Annotated[
        Literal["greedy", "greedy_per_minibatch", "teacher_forced"],
        Doc("how a joint action goes on after agent i's predecessors, see above."),
    ] = "greedy"
    value_chunk_size: Annotated[
        int | None,
        Gt(0),
        Doc("""decoder positions, over a micro-batch, that the value computes at once.
        It bounds memory where agents are many; the gradient is the same, at the price of a second
        forward pass where there are more. null: no bound. With attention to neighbours there are
        few, and no bound is taken."""),
    ] = 131_072
    value_loss_agents: Annotated[
        int | None,
        Gt(0),
        Doc("""how many agents the value loss is taken of, drawn for each micro-batch and scaled to
        the expectation of all agents' loss. Advantages come from all agents' values, and the
        policy loss is of all agents. null, or more than there are: all."""),
    ] = None
    value_agents: Annotated[
        int | None,
        Gt(0),
        Doc("""how many agents have a value in an update, drawn for each: only they are
        trained on. It needs the index order. null, or more than there are: all."""),
    ] = None


class SrSvConfig(MATConfig, SrSvSettings):
    """The config of SrSv."""

    @training_method(SrSvSettings)
    def training(self) -> None:
        """See `SrSvSettings`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class or SrSv)

    def check(self) -> None:
        """See `SequentialConfig.check`."""
        if self.value in ("encoder", "decoder"):
            raise UserError(f"SrSv with value {self.value!r} is MAT: run MAT.")
        super().check()
        if self.value_agents is None:
            return
        if value_class(self.network, self.value_function) is not SequentialValue:
            raise UserError(
                "value_agents bounds what the value 'sequential' costs; with network "
                f"{self.network!r} and value {self.value_function!r} leave it at null."
            )
        if self.order != "index":
            raise UserError(
                "value_agents needs every agent to keep its place: with order "
                f"{self.order!r} leave it at null, or use order 'index'."
            )

    @property
    def value_function(self) -> str:
        """See `SequentialConfig.value_function`."""
        return self.value if self.use_successor_policy else "sequential_without_policy"

    def get_default_learner_class(self) -> type[SrSvLearner]:
        """The learner of this file."""
        return SrSvLearner


class SrSvLearner(MATLearner):
    """MAT's, on the agents whose values are computed."""

    def agents_to_train(self, num_agents: int) -> Tensor | None:
        """``value_agents`` of the agents.

        They are drawn once for all env steps, because an advantage is made of one agent's values
        over time.
        """
        count = self.config.value_agents
        if count is None:
            return None
        drawn = torch.randperm(num_agents, generator=self.generator)[:count]
        return drawn.sort().values.to(self.device)

    def micro_batches(self, batch: SequentialBatch) -> Iterator[SequentialBatch]:
        """See `TeamLearner.micro_batches`; each with the value loss of some agents.

        They are taken from a random permutation, and from a new one when it is used up: each agent
        is as likely as any other in every micro-batch, and in a gradient step all come about
        equally often.
        """
        count, positions = self.config.value_loss_agents, batch.value_positions
        agents = batch.alive.shape[1] if positions is None else len(positions)
        waiting = torch.empty(0, dtype=torch.long)
        for micro_batch in super().micro_batches(batch):
            if count is None or count >= agents:
                yield micro_batch
                continue
            if len(waiting) < count:
                waiting = torch.randperm(agents, generator=self.generator)
            drawn, waiting = waiting[:count].sort().values, waiting[count:]
            yield self.with_value_loss_of(micro_batch, drawn)

    def with_value_loss_of(self, batch: SequentialBatch, drawn: Tensor) -> SequentialBatch:
        """The micro-batch with the value loss of some of the agents that have a value.

        Args:
            batch: a micro-batch.
            drawn: whose, int [K], ascending, of the I agents that have a value, in decision order.
                Their loss is scaled by I / K.
        """
        positions = batch.value_positions or tuple(range(batch.alive.shape[1]))
        chosen = tuple(positions[i] for i in drawn.tolist())
        scale = torch.zeros_like(batch.value_weight)  # [B, N], in decision order
        scale[:, chosen] = len(positions) / len(chosen)
        inputs = batch.value_inputs
        # With attention to neighbours, they say what any of the agents needs.
        if inputs is not None and batch.neighbours is None:
            inputs = self.core.policy.value.select(inputs, drawn.to(self.device))
        return batch.replace(
            value_positions=chosen,
            value_inputs=inputs,
            value_weight=batch.value_weight * to_slots(scale, batch.order),
        )


class SrSv(MAT):
    """Sequential rollout with sequential value estimation."""

    @classmethod
    def get_default_config(cls) -> SrSvConfig:
        """The builder with this algorithm's defaults."""
        return SrSvConfig()
