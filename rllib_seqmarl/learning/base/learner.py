"""The learner of rollouts: minibatches, gradient steps, checks and timing.

A family of algorithms says in `build_train_batch` what is trained on, and an algorithm in RLlib's
``compute_loss_for_module`` what its loss is. The order of one update, from `update`:

    on_rollout(rollout)
    batch = build_train_batch(rollout)            advantages, targets
    log_batch(batch)
    update_epochs(batch)                          for each epoch, for each minibatch:
        update_minibatch(minibatch)
            prepare_minibatch(minibatch)          weights, and what else needs the whole of it
            gradient_step(minibatch, loss)        for each micro-batch: loss, backward; one step
"""

from __future__ import annotations

import contextlib
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
import tree
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.learning.base.batch import TrainBatch
from rllib_seqmarl.learning.base.module import TeamModule
from rllib_seqmarl.matmul import multiply_with
from rllib_seqmarl.returns import ValueNorm
from rllib_seqmarl.rollout.metrics import CPU_TIME, TIME_SPLIT, CpuClock
from rllib_seqmarl.rollout.rollout_batch import RolloutBatch, concatenate

#: Parts of a learner's state. Checkpoints of version 0.1 call the second one "kept".
GENERATOR = "generator"
EXTRA_STATE = "extra_state"
_OLD_EXTRA_STATE = "kept"

_NOT_FINITE = (
    "is not finite; training stops before the weights are corrupted. Lower lr, set grad_clip, or "
    "look at the scale of rewards and observations; the last checkpoint is good."
)

#: Names of the parts of a state, as RLlib gives them.
Components = str | Collection[str] | None

BatchT = TypeVar("BatchT", bound=TrainBatch)
ModuleT = TypeVar("ModuleT", bound=TeamModule)

if TYPE_CHECKING:

    class _Learner(TorchLearner, Generic[BatchT, ModuleT]):
        """RLlib's learner, with the types of batch and module for the type checker."""
else:

    class _Learner:
        """``_Learner[Batch, Module]`` is RLlib's learner itself: no class in between."""

        def __class_getitem__(cls, types):
            return TorchLearner


class TeamLearner(_Learner[BatchT, ModuleT]):
    """Trains on rollouts.

    A minibatch is taken in micro-batches of ``micro_batch_size`` steps whose gradients are summed:
    the same gradient, in memory that fits a processor's cache.

    Attributes:
        schedules: settings that may be schedules over environment steps, see `scheduled`.
        generator: shuffles minibatches, and whatever else learning draws.
        extra_state: tensors that an algorithm needs from update to update, beside its module's.
    """

    schedules: ClassVar[tuple[str, ...]] = ("entropy_coeff",)
    generator: torch.Generator
    extra_state: dict[str, Tensor]

    if not TYPE_CHECKING:

        def __class_getitem__(cls, types):
            return cls

    # -- what an algorithm must define -----------------------------------------------------------

    @abstractmethod
    def build_train_batch(self, rollout: RolloutBatch) -> BatchT:
        """Columns [T, E, N, ...] of a rollout -> the rows to train on, with their targets.

        Rows are steps [T E, N, ...], or sequences [E, T, N, ...]; see `steps_per_row`.
        """

    @abstractmethod
    def prepare_minibatch(self, minibatch: BatchT) -> BatchT:
        """The minibatch with what its loss needs before any of its micro-batches is seen.

        Such as the weights by which the terms of its rows are multiplied.
        """

    # -- what an algorithm may override ----------------------------------------------------------

    def on_rollout(self, rollout: RolloutBatch) -> None:
        """Called with each rollout before it is trained on; does nothing here."""

    def log_batch(self, batch: BatchT) -> None:
        """Logs what can be said of a batch before it is trained on; nothing here."""

    def steps_per_row(self, batch: BatchT) -> int:
        """Environment steps that a row holds."""
        return 1

    def update_epochs(self, batch: BatchT) -> None:
        """All gradient steps of an iteration."""
        for minibatch in self.minibatches(batch):
            self.update_minibatch(minibatch)

    def update_minibatch(self, minibatch: BatchT) -> None:
        """The gradient steps on a minibatch: one, on the algorithm's loss."""
        self.gradient_step(self.prepare_minibatch(minibatch), self.loss)

    def loss(self, micro_batch: BatchT) -> Tensor:
        """The algorithm's ``compute_loss_for_module`` after a forward pass."""
        batch = {DEFAULT_MODULE_ID: micro_batch}
        forward = self.module.forward_train(batch)
        return sum(self.compute_losses(fwd_out=forward, batch=batch).values())

    # -- RLlib -----------------------------------------------------------------------------------

    @property
    def core(self) -> ModuleT:
        """The module itself, without what several learners wrap around it."""
        module: ModuleT = self.module[DEFAULT_MODULE_ID].unwrapped()
        return module

    def build(self) -> None:
        """Builds module, optimiser and schedules; see RLlib's ``Learner.build``."""
        # `_check_finite` has seen the gradients. RLlib would look at those of every parameter twice
        # and wait for the device each time. The config is the learner's own copy.
        self.config.torch_skip_nan_gradients = True
        super().build()
        # With a seed RLlib asks torch for deterministic algorithms, and torch then also fills all
        # new memory with NaN: much time for what only finds reads of memory never written to.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self._schedules = {
            name: Scheduler(getattr(self.config, name), framework="torch")
            for name in self.schedules
        }
        self.generator = torch.Generator()  # on the CPU, so that its state fits any machine
        if self.config.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.config.seed)
        self.extra_state = {}
        self._metric_sums: dict[str, Tensor] = {}
        self._network_seconds = 0.0
        self._cpu_clock = CpuClock()

    def configure_optimizers_for_module(
        self, module_id: str, config: AlgorithmConfig | None = None
    ) -> None:
        """One Adam for everything, with the epsilon of the official MAT code."""
        parameters = self.get_parameters(self.module[module_id])
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.Adam(parameters, eps=self.config.adam_epsilon),
            params=parameters,
            lr_or_lr_schedule=self.config.lr,
        )

    def update(
        self,
        training_data: TrainingData,
        *,
        timesteps: dict[str, int] | None = None,
        return_state: bool = False,
    ) -> dict[str, Any]:
        """``num_epochs`` passes over rollouts.

        Args:
            training_data: RLlib's ``TrainingData`` with this learner's rollouts as ``batch`` or, in
                the driver, as the one entry of ``batches``.
            timesteps: step counts, for schedules.
            return_state: RLlib asks for it of remote learners; the state travels separately.

        Returns:
            Metrics, for RLlib to merge over learners.

        Raises:
            UserError: a loss or a gradient is not finite; the step that it would have led to is
                not taken.
        """
        begin = time.perf_counter()
        if self.config.num_threads_per_learner is not None:
            torch.set_num_threads(self.config.num_threads_per_learner)
        self.before_gradient_based_update(timesteps=timesteps or {})
        training_data.solve_refs()
        rollout = concatenate(tree.flatten(training_data.batches or training_data.batch))
        self._network_seconds = 0.0
        self._metric_sums = {}
        with multiply_with(self.config.matmul):
            self.on_rollout(rollout)
            batch = self.build_train_batch(rollout)
            self.log_batch(batch)
            self.update_epochs(batch)
        self._weights_seq_no += 1
        self.after_gradient_based_update(timesteps=timesteps or {})
        steps = self.config.num_epochs * self._num_minibatches(batch)
        self._log_update(rollout.num_env_steps, steps)
        total = time.perf_counter() - begin
        for part, value in (
            ("forward_backward", self._network_seconds),
            ("learning_other", total - self._network_seconds),
        ):
            self.metrics.log_value(
                (DEFAULT_MODULE_ID, TIME_SPLIT, part), value, reduce="mean", window=1
            )
        if self.config.num_learners:  # else it is in the trial's process, which is counted there
            self.metrics.log_value(
                (DEFAULT_MODULE_ID, CPU_TIME), self._cpu_clock.lap(), reduce="sum"
            )
        metrics: dict[str, Any] = self.metrics.reduce()
        return metrics

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Sets learning rates and all other schedules for the steps taken so far.

        RLlib sets learning rates after an update, for the next one. Those of a checkpoint come
        with its optimisers, though, and a run that begins with it may have other ones.
        """
        super().before_gradient_based_update(timesteps=timesteps)
        steps = timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)
        for optimizer, learning_rate in self._optimizer_lr_schedules.items():
            self._set_optimizer_lr(optimizer, lr=float(learning_rate.update(timestep=steps)))
        for schedule in self._schedules.values():
            schedule.update(steps)

    def scheduled(self, name: str) -> float:
        """The present value of one of `schedules`."""
        return float(self._schedules[name].get_current_value())

    # -- minibatches and gradient steps ----------------------------------------------------------

    def _num_minibatches(self, batch: BatchT) -> int:
        """Minibatches of an epoch: as many for all learners, who wait for each other."""
        largest = self.max_over_learners(len(batch))
        size = self.config.minibatch_size
        return 1 if size is None else -(-largest // self._num_rows(size, batch))

    def _num_rows(self, steps: int | None, batch: BatchT) -> int:
        """How many of the rows make ``steps`` environment steps; all of them for None."""
        return len(batch) if steps is None else max(1, steps // self.steps_per_row(batch))

    def minibatches(self, batch: BatchT, epochs: int | None = None) -> Iterator[BatchT]:
        """Passes over a batch in minibatches of near-equal size; no row is dropped.

        Args:
            batch: what is shuffled.
            epochs: how many passes; None for the config's ``num_epochs``.
        """
        number = self._num_minibatches(batch)
        for _ in range(self.config.num_epochs if epochs is None else epochs):
            if number == 1:
                yield batch
                continue
            shuffled = torch.randperm(len(batch), generator=self.generator).to(self.device)
            for indices in shuffled.tensor_split(number):
                yield batch[indices]

    def micro_batches(self, batch: BatchT) -> Iterator[BatchT]:
        """The rows in their order, ``micro_batch_size`` steps at a time."""
        return batch.micro_batches(self._num_rows(self.config.micro_batch_size, batch))

    def gradient_step(self, minibatch: BatchT, loss: Callable[[BatchT], Tensor]) -> None:
        """One step of those optimisers whose parameters ``loss`` depends on.

        Args:
            minibatch: what `prepare_minibatch` returned.
            loss: of a micro-batch; the losses of micro-batches add up to that of the minibatch.

        Raises:
            UserError: a loss or a gradient is not finite.
        """
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        module = self.module[DEFAULT_MODULE_ID]
        for micro_batch in self.micro_batches(minibatch):
            # Several learners exchange gradients once per step, below, and only those there are.
            no_sync = module.no_sync() if self.distributed else contextlib.nullcontext()
            with no_sync, self.network_time():
                loss(micro_batch).backward()
        self._average_over_learners()
        self._check_finite()
        gradients = {ref: p.grad for ref, p in self._params.items() if p.grad is not None}
        self.apply_gradients(self.postprocess_gradients(gradients))

    def _average_over_learners(self) -> None:
        """Every learner's gradients become the mean of all learners' gradients."""
        if not self.distributed:
            return
        gradients = [p.grad for p in self._params.values() if p.grad is not None]
        sizes = [gradient.numel() for gradient in gradients]
        whole = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(whole)
        whole /= self.num_shares
        for gradient, mean in zip(gradients, whole.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))

    # -- means over all learners -----------------------------------------------------------------

    def sum_over_learners(self, x: Tensor) -> Tensor:
        """The sum of ``x`` over all learners; ``x`` itself when there is one."""
        if self.distributed:
            x = x.clone()
            torch.distributed.all_reduce(x)
        return x

    def max_over_learners(self, x: int) -> int:
        """The largest ``x`` of all learners."""
        if not self.distributed:
            return x
        largest = torch.tensor(x, device=self.device)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return int(largest)

    @property
    def num_shares(self) -> int:
        """Learners among whom a minibatch is sharded; their gradients are averaged."""
        return max(1, self.config.num_learners)

    def mean_weights(self, counted: Tensor) -> Tensor:
        """Weights with which a weighted sum is the mean over what counts, of all learners.

        Args:
            counted: 1 for what counts, 0 else; any shape. Where nothing counts, all weights are 0.
        """
        total = self.sum_over_learners(counted.sum()).clamp(min=1.0)
        # Learners' gradients are averaged, so each divides by its share of the weight.
        return counted / (total / self.num_shares)

    def with_weights(self, batch: BatchT, values: Tensor, mask: Tensor | None = None) -> BatchT:
        """The batch with the weights of its policy terms and of its value terms.

        Dead agents count as ``use_policy_active_mask`` and ``use_value_active_mask`` say.

        Args:
            batch: a minibatch.
            values: of the shape and type of what is regressed, [B, N] or [B] of a team's value.
            mask: bool [B, N], who is trained at all; None: all.
        """
        alive = batch.alive.to(values.dtype)
        policy = alive if self.config.use_policy_active_mask else torch.ones_like(alive)
        value = alive if self.config.use_value_active_mask else torch.ones_like(values)
        if mask is not None:
            policy, value = policy * mask, value * mask
        return batch.replace(
            policy_weight=self.mean_weights(policy), value_weight=self.mean_weights(value)
        )

    def standardise(self, advantages: Tensor, counted: Tensor, per_agent: bool = False) -> Tensor:
        """Advantages minus their mean, divided by their standard deviation, over all learners.

        Args:
            advantages: [..., N].
            counted: bool [..., N], whose advantages make up mean and deviation.
            per_agent: each agent's by themselves, and not all together.
        """
        kept = torch.where(counted, advantages, 0.0).double()
        over = tuple(range(counted.ndim - per_agent))
        sums = torch.stack((kept.sum(over), kept.square().sum(over), counted.double().sum(over)))
        total, squares, count = self.sum_over_learners(sums)
        count = count.clamp(min=1.0)  # of an agent that was never alive
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0.0).sqrt()
        return ((advantages - mean) / (std + 1e-5)).float()

    def update_value_norm(self, value_norm: ValueNorm, returns: Tensor) -> None:
        """Adds the mean and the mean square of returns, of all learners, to the running ones.

        Where none of them counts, as with nobody there in a minibatch, there is nothing to add.

        Raises:
            UserError: they are not finite.
        """
        moments = torch.stack(
            (returns.sum(), returns.square().sum(), returns.new_tensor(float(returns.numel())))
        ).double()
        total, squares, count = self.sum_over_learners(moments)
        if not (returns.numel() if self.num_shares == 1 else count):
            return
        self.require_finite(returns=total, squared_returns=squares)
        value_norm.update(total / count, squares / count)

    # -- time and metrics ------------------------------------------------------------------------

    def to_device(self, column: NDArray[Any]) -> Tensor:
        """A NumPy column as a tensor where the module is."""
        if not column.flags.writeable:
            column = column.copy()  # Ray's object store hands out read-only arrays
        return torch.as_tensor(column, device=self.device)

    @contextlib.contextmanager
    def network_time(self) -> Iterator[None]:
        """Counts the time inside as forward and backward passes."""
        begin = time.perf_counter()
        yield
        self._network_seconds += time.perf_counter() - begin

    def log_metrics(self, **metrics: Tensor) -> None:
        """Adds to the metrics of this update; those of micro-batches add up to a minibatch's."""
        for name, value in metrics.items():
            value, sums = value.detach(), self._metric_sums
            sums[name] = sums[name] + value if name in sums else value

    def log_once(self, **metrics: float) -> None:
        """Logs metrics that an update has once."""
        for name, value in metrics.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, name), value, reduce="mean", window=1)

    def log_explained_variance(self, values: Tensor, targets: Tensor, counted: Tensor) -> None:
        """Logs 1 - Var[y - v] / Var[y] of targets y and values v over what counts, of all learners.

        1 is a perfect value, 0 one that says no more than a constant, also where y does not vary.

        Args:
            values: before the update, in the units of ``targets``.
            targets: the same shape.
            counted: bool, the same shape.
        """
        y = targets[counted].double()
        error = y - values[counted].double()
        sums = torch.stack([m for x in (y, error) for m in (x.sum(), x.square().sum())])
        count = self.sum_over_learners(y.new_tensor(float(len(y)))).clamp(min=1.0)
        mean_y, square_y, mean_error, square_error = self.sum_over_learners(sums) / count
        variance = square_y - mean_y.square()
        unexplained = (square_error - mean_error.square()) / variance.clamp(min=1e-12)
        self.log_once(explained_variance=float(1.0 - unexplained) if variance > 1e-12 else 0.0)

    @staticmethod
    def require_finite(**values: Tensor) -> None:
        """Stops before a value that is not finite corrupts what is learned.

        Raises:
            UserError: names the first bad one.
        """
        finite = {name: torch.isfinite(value).all() for name, value in values.items()}
        if not torch.stack(list(finite.values())).all():  # one wait for the device
            name = next(name for name, good in finite.items() if not good)
            raise UserError(f"{name!r} {_NOT_FINITE}")

    def _check_finite(self) -> None:
        """Stops before a step that would corrupt the weights."""
        gradients = [p.grad for p in self._params.values() if p.grad is not None]
        norms = [gradient.abs().sum() for gradient in gradients]
        norms += [total for name, total in self._metric_sums.items() if name == "total_loss"]
        if torch.isfinite(torch.stack(norms)).all():  # the one wait for the device of a step
            return
        terms = [name for name, value in self._metric_sums.items() if not torch.isfinite(value)]
        named = self.module[DEFAULT_MODULE_ID].named_parameters()
        broken = [
            name for name, p in named if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        what = f"loss term {terms[0]!r}" if terms else f"gradient of {broken[0]!r}"
        raise UserError(f"{what} {_NOT_FINITE}")

    def _log_update(self, env_steps: int, gradient_steps: int) -> None:
        for name, value in self._metric_sums.items():
            # float64: a mean over many minibatches, and RLlib merges Python floats.
            self.log_once(**{name: float(value) / gradient_steps})
        self.metrics.log_value(
            (DEFAULT_MODULE_ID, WEIGHTS_SEQ_NO), self._weights_seq_no, reduce="mean", window=1
        )
        trained = env_steps * self.config.num_epochs
        for key, reduce in (
            ((DEFAULT_MODULE_ID, NUM_MODULE_STEPS_TRAINED), "sum"),
            ((ALL_MODULES, NUM_MODULE_STEPS_TRAINED), "sum"),
            ((ALL_MODULES, NUM_ENV_STEPS_TRAINED), "sum"),
            ((DEFAULT_MODULE_ID, NUM_MODULE_STEPS_TRAINED_LIFETIME), "lifetime_sum"),
            ((ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME), "lifetime_sum"),
            ((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), "lifetime_sum"),
        ):
            self.metrics.log_value(key, trained, reduce=reduce)

    # -- state -----------------------------------------------------------------------------------

    def get_state(
        self,
        components: Components = None,
        *,
        not_components: Components = None,
        **kwargs: object,
    ) -> dict[str, Any]:
        """RLlib's state, that of the generator, and `extra_state`."""
        state: dict[str, Any] = super().get_state(
            components, not_components=not_components, **kwargs
        )
        if self._check_component(GENERATOR, components, not_components):
            state[GENERATOR] = self.generator.get_state().cpu().numpy()
        if self._check_component(EXTRA_STATE, components, not_components):
            state[EXTRA_STATE] = {k: value.cpu().numpy() for k, value in self.extra_state.items()}
        return state

    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        """RLlib's; of parameters that have another shape now, nothing is taken over."""
        super()._set_optimizer_state(state)
        for optimizer in self._optimizer_parameters:
            for parameter, moments in list(optimizer.state.items()):
                shapes = {m.shape for m in moments.values() if isinstance(m, Tensor) and m.ndim}
                if shapes - {parameter.shape}:
                    del optimizer.state[parameter]

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` gave, as far as it is there."""
        super().set_state(state)
        if GENERATOR in state:
            self.generator.set_state(torch.from_numpy(state[GENERATOR]))
        extra = state.get(EXTRA_STATE, state.get(_OLD_EXTRA_STATE))
        if extra is not None:
            self.extra_state = {k: torch.as_tensor(v, device=self.device) for k, v in extra.items()}
