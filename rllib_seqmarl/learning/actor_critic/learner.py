"""What MAPPO, HAPPO and A2PO share: settings, rows and the two losses of actors with a critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.actor_critic.module import (
    ACTOR_HIDDEN,
    CRITIC_HIDDEN,
    CRITIC_INPUT,
    CRITIC_INPUTS,
    ActorModule,
)
from rllib_seqmarl.learning.base.advantages import (
    OLD_VALUES,
    POLICY_WEIGHT,
    TARGETS,
    VALUE_WEIGHT,
    AdvantageLearner,
)
from rllib_seqmarl.learning.base.config import TeamConfig
from rllib_seqmarl.learning.base.learner import Rows
from rllib_seqmarl.learning.central_q.module import require_state
from rllib_seqmarl.learning.sequential.module import ENTROPY
from rllib_seqmarl.losses import (
    RATIO_AGGREGATIONS,
    clipped_value_loss,
    probability_ratio,
    weighted_sum,
)
from rllib_seqmarl.nets.agents.stacked import ACTIVATIONS, Memory
from rllib_seqmarl.nets.value_norm import ValueNorm
from rllib_seqmarl.returns import TIME_LIMITS
from rllib_seqmarl.rollout.rollout_batch import (
    ACTION_MASK,
    ALIVE,
    IS_FIRST,
    LOG_PROB,
    OBS,
    REWARD,
    RolloutBatch,
)


class ActorConfig(TeamConfig):
    """Settings of actors with a central critic; the defaults are those of HARL's code.

    Attributes:
        share_parameters: one actor for all agents, or one for each.
        share_critic: likewise, of the critic.
        state: what the critic reads: ``environment``, its ``state`` (most environments give it
            with ``state: true`` in env_config), one value for the team;
            ``environment_and_observation``, a value per agent; ``observations`` of all agents, one
            value for the team; or the agent's own ``observation``: independent learners.
        hidden_sizes: widths of the hidden layers of actors and critic.
        activation: ``relu`` or ``tanh``.
        feature_norm: LayerNorm of the input.
        recurrent: a GRU behind the hidden layers of actors and critic.
        chunk_length: recurrent: steps of a sequence through which gradients go; divides
            ``rollout_fragment_length``. The state at its start is computed before the update.
        lr: of the actors; a number or a schedule ``[[env_step, value], ...]``.
        critic_lr: likewise, of the critic.
        clip_param: eps, of the ratio and of the value; a number or a schedule.
        lambda_: trace decay of the advantages.
        entropy_coeff: weight of the entropy; a number or a schedule.
        huber_delta: where the value loss becomes linear.
        ratio_aggregation: ratio of an action with several dimensions (see `losses`) in the agent's
            own loss; other agents take account of the joint ratio of all dimensions.
        value_norm_beta: weight of the running statistics of the returns.
        minibatch_size: environment steps per gradient step; with ``recurrent`` at least a chunk.
        micro_batch_size: likewise, per forward and backward pass.
    """

    _CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "state": tuple(CRITIC_INPUTS),
        "activation": tuple(ACTIVATIONS),
        "ratio_aggregation": RATIO_AGGREGATIONS,
        "time_limit": TIME_LIMITS,
    }
    _WHOLE: ClassVar[set[str]] = TeamConfig._WHOLE | {"chunk_length"}
    _POSITIVE: ClassVar[set[str]] = TeamConfig._POSITIVE | {
        "chunk_length",
        "clip_param",
        "huber_delta",
    }
    _NOT_NEGATIVE: ClassVar[set[str]] = TeamConfig._NOT_NEGATIVE | {"critic_lr"}
    _UNIT_INTERVAL: ClassVar[set[str]] = {"gamma", "lambda_", "value_norm_beta"}

    def __init__(self, algo_class: type[Any] | None = None) -> None:
        super().__init__(algo_class)
        self.share_parameters = True
        self.share_critic = True
        self.state = "environment"
        self.hidden_sizes = [128, 128]
        self.activation = "relu"
        self.feature_norm = True
        self.recurrent = False
        self.chunk_length = 10
        self.lr = 5e-4
        self.critic_lr = 5e-4
        self.num_epochs = 5
        self.micro_batch_size = 1600
        self.clip_param = 0.2
        self.gamma = 0.99
        self.lambda_ = 0.95
        self.entropy_coeff = 0.01
        self.huber_delta = 10.0
        self.grad_clip = 10.0
        self.ratio_aggregation = "prod"
        self.value_norm_beta = 0.99999

    def validate(self) -> None:
        """See `TeamConfig.validate`."""
        super().validate()
        sizes = self.hidden_sizes
        if not (
            isinstance(sizes, list | tuple)
            and sizes
            and all(type(size) is int and size > 0 for size in sizes)
        ):
            raise UserError(
                "config key 'hidden_sizes' must list the widths of one or more layers, as in "
                f"[128, 128], got {sizes!r}."
            )
        if self.in_evaluation:
            return
        require_state(self)
        if self.recurrent:
            self._check_chunks()

    def _check_chunks(self) -> None:
        if self.rollout_fragment_length % self.chunk_length:
            raise UserError(
                f"config key 'chunk_length' ({self.chunk_length}) must divide "
                f"rollout_fragment_length ({self.rollout_fragment_length})."
            )
        for name in ("minibatch_size", "micro_batch_size"):
            steps = getattr(self, name)
            if steps is not None and steps < self.chunk_length:
                raise UserError(
                    f"config key {name!r} ({steps}) holds no whole chunk of chunk_length "
                    f"({self.chunk_length}) steps: raise it, or shorten the chunks."
                )

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Actors and a critic."""
        names = (
            "share_parameters",
            "share_critic",
            "state",
            "hidden_sizes",
            "activation",
            "feature_norm",
            "recurrent",
            "value_norm_beta",
        )
        settings = {name: getattr(self, name) for name in names}
        settings["learns"] = not self.in_evaluation
        return RLModuleSpec(module_class=ActorModule, model_config=settings)


class ActorLearner(AdvantageLearner):
    """Rows, and the losses of actors and critic, which have no parameter in common.

    An algorithm adds the loss of the actors, ``compute_loss_for_module``.

    Attributes:
        step_share: what one gradient step counts in the figures of an update, where an algorithm
            takes another number of them than one per minibatch and epoch.
    """

    step_share: float = 1.0

    @property
    def core(self) -> ActorModule:
        """The module itself, without what several learners wrap around it."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def value_norm(self) -> ValueNorm:
        """See `AdvantageLearner`."""
        return self.core.value_norm

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """An Adam for the actors and one for the critic, whose gradients are clipped apart."""
        core = self.module[module_id].unwrapped()
        critic = list(core.critic.parameters())
        actors = list(core.actor.parameters())
        if core.log_std is not None:
            actors += core.log_std.parameters()
        for part, parameters, lr in (
            ("actor", actors, config.lr),
            ("critic", critic, config.critic_lr),
        ):
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=part,
                optimizer=torch.optim.Adam(parameters, eps=config.adam_epsilon),
                params=parameters,
                lr_or_lr_schedule=lr,
            )

    # -- rows --------------------------------------------------------------------------------

    def steps_per_row(self, rows: Rows) -> int:
        """A row is one step, or a chunk of them where agents are recurrent."""
        return self.config.chunk_length if self.config.recurrent else 1

    def to_rows(self, column: Tensor) -> Tensor:
        """[T, E, ...] -> [T E, ...], or chunks [(T / L) E, L, ...]."""
        if not self.config.recurrent:
            return column.flatten(0, 1)
        chunks = column.unflatten(0, (-1, self.config.chunk_length))  # [T / L, L, E, ...]
        return chunks.transpose(1, 2).flatten(0, 1)

    def from_rows(self, column: Tensor, worlds: int) -> Tensor:
        """The inverse of `to_rows`: -> [T, E, ...] with E ``worlds``."""
        column = column.unflatten(0, (-1, worlds))
        return column.transpose(1, 2).flatten(0, 1) if self.config.recurrent else column

    def old_values(self, block: RolloutBatch, columns: Rows, rows: Rows) -> tuple[Tensor, Tensor]:
        """See `AdvantageLearner`; adds what the critic reads and the memory of chunks."""
        core, steps = self.core, len(columns[REWARD])
        x = core.critic_input(columns)  # [T + 1, E, V, S]
        rows[CRITIC_INPUT] = self.to_rows(x[:steps])
        final, tail = block.final, x[steps]
        if final is not None:
            last = core.critic_input({k: self.to_device(v) for k, v in final.columns.items()})
            tail = torch.cat((tail, last))  # [E + K, V, S]
        worlds = x.shape[1]
        if self.config.recurrent:
            old, tail_values = self._recurrent_values(block, columns, rows, x[:steps], tail)
        else:
            old = torch.cat([core.values(piece) for piece in self.pieces(rows)])
            old, tail_values = self.from_rows(old, worlds), core.critic_pass(tail)[0]
        following = torch.cat((old[1:], tail_values[:worlds].unsqueeze(0)))
        if final is not None:
            following[final.step, final.world] = tail_values[worlds:]
        return old, following

    def _recurrent_values(
        self, block: RolloutBatch, columns: Rows, rows: Rows, x: Tensor, tail: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Values [T, E, N] of sequences and [E + K, N] of what followed; memory of the chunks."""
        core, length = self.core, self.config.chunk_length
        memory = {k: self.to_device(v) for k, v in block.memory.items()}
        is_first = columns[IS_FIRST].t()  # [E, T]
        values, hidden = core.critic_pass(
            x.transpose(0, 1), Memory(memory[CRITIC_HIDDEN], is_first)
        )
        obs = columns[OBS][: len(x)].transpose(0, 1)
        acting = core.actor(obs, Memory(memory[ACTOR_HIDDEN], is_first)).hidden
        assert hidden is not None
        assert acting is not None
        rows[IS_FIRST] = self.to_rows(columns[IS_FIRST])
        for name, after in ((ACTOR_HIDDEN, acting), (CRITIC_HIDDEN, hidden)):
            # What a chunk begins with: the memory, then the state after every L-th step.
            starts = torch.cat((memory[name].unsqueeze(1), after[:, length - 1 : -1 : length]), 1)
            rows[name] = starts.transpose(0, 1).flatten(0, 1)  # [(T / L) E, n, H]
        state = hidden[:, -1]
        if block.final is not None:
            state = torch.cat((state, hidden[block.final.world, block.final.step]))
        goes_on = torch.zeros(len(tail), 1, dtype=torch.bool, device=tail.device)
        tail_values, _ = core.critic_pass(tail.unsqueeze(1), Memory(state, goes_on))
        return values.transpose(0, 1), tail_values[:, 0]

    def of_agents(self, rows: Rows, agents: Sequence[int]) -> Rows:
        """The columns of some agents, and whatever belongs to all."""
        axis = 2 if self.config.recurrent else 1
        chosen = torch.as_tensor(agents, device=self.device)
        own = dict(rows)
        for name, column in rows.items():
            at = 1 if name in (ACTOR_HIDDEN, CRITIC_HIDDEN) else axis
            everybodys = name in (CRITIC_INPUT, CRITIC_HIDDEN) and column.shape[at] == 1
            if column.ndim > at and not everybodys:
                own[name] = column.index_select(at, chosen)
        return own

    # -- losses ------------------------------------------------------------------------------

    def ratio(self, new: Tensor, batch: Rows) -> Tensor:
        """pi_new / pi_old of each agent, [..., n, K]."""
        exists = batch.get(ACTION_MASK) if new.shape[-1] > 1 else None
        return probability_ratio(new, batch[LOG_PROB], self.config.ratio_aggregation, exists)

    def log_ratio(self, rows: Rows, agents: Sequence[int] | None = None) -> Tensor:
        """log(pi_now / pi_old) of whole actions, [..., n]; 0 for agents that are dead.

        Args:
            rows: columns of the n agents.
            agents: their slots; None for all.
        """
        with torch.no_grad(), self.network_time():
            now = [self.core.evaluate(piece, agents)[LOG_PROB] for piece in self.pieces(rows)]
        return (torch.cat(now) - rows[LOG_PROB]).sum(-1).masked_fill(~rows[ALIVE], 0.0)

    def agreed_draw(self) -> Tensor:
        """A random number of each agent, [N], the same for all learners."""
        draw = torch.rand(self.core.num_agents, generator=self.generator)
        return self.sum_over_learners(draw.to(self.device))

    def actor_loss(self, agents: Sequence[int]) -> Callable[[Rows], Tensor]:
        """The algorithm's loss of rows that hold the columns of ``agents`` alone."""

        def loss(piece: Rows) -> Tensor:
            return self.compute_loss_for_module(
                module_id=DEFAULT_MODULE_ID,
                config=self.config,
                batch=piece,
                fwd_out=self.core.evaluate(piece, agents),
            )

        return loss

    def regularised(self, surrogate: Tensor, ratio: Tensor, batch: Rows, out: Rows) -> Tensor:
        """Mean of the surrogate minus the entropy bonus, over agents that count, and its figures.

        Args:
            surrogate: of each agent, [..., n], to be minimised.
            ratio: [..., n, K].
            batch: rows of the minibatch.
            out: what the module says of them now.
        """
        weight = batch[POLICY_WEIGHT]
        policy_loss = weighted_sum(surrogate, weight)
        entropy = weighted_sum(out[ENTROPY], weight)
        loss = policy_loss - self.entropy_coeff.get_current_value() * entropy
        outside = ((ratio - 1.0).abs() > self.clip_param.get_current_value()).float().mean(-1)
        terms = {
            "policy_loss": policy_loss,
            "entropy": entropy,
            "clip_fraction": weighted_sum(outside, weight),
            "ratio_deviation": weighted_sum((ratio - 1.0).abs().mean(-1), weight),
            "total_loss": loss,
        }
        self.log_terms(**{name: self.step_share * term for name, term in terms.items()})
        return loss

    def value_loss(self, piece: Rows, agents: Sequence[int] | None = None) -> Tensor:
        """L_V, the larger of Huber losses of the value and of the value held near the old one."""
        eps = float(self.clip_param.get_current_value())
        error = clipped_value_loss(
            self.core.values(piece, agents),
            piece[OLD_VALUES],
            piece[TARGETS],
            eps,
            self.config.huber_delta,
        )
        return weighted_sum(error, piece[VALUE_WEIGHT])

    def critic_loss(self, piece: Rows, agents: Sequence[int] | None = None) -> Tensor:
        """`value_loss`, as a figure of the update."""
        loss = self.value_loss(piece, agents)
        self.log_terms(vf_loss=self.step_share * loss)
        return loss
