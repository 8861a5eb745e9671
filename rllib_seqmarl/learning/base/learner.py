"""The learner of blocks of columns: minibatches, gradient steps, checks and timing.

An algorithm fills in two things: `rows`, from columns to the rows that are learned from, and
RLlib's ``compute_loss_for_module``, the loss of some of these rows. A row is what a minibatch takes
or leaves as a whole: one step of one world, or all T steps of it where agents are recurrent.
"""

from __future__ import annotations

import contextlib
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
import tree
from numpy.typing import NDArray
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
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
from rllib_seqmarl.rollout.metrics import TIME_SPLIT
from rllib_seqmarl.rollout.rollout_batch import RolloutBatch, concatenate

GENERATOR = "generator"
KEPT = "kept"

_NOT_FINITE = (
    "is not finite; training stops before the weights are spoilt. Lower lr, set grad_clip, or look "
    "at the scale of rewards and observations; the last checkpoint is good."
)

Rows = dict[str, Tensor]


def _columns(rows: Rows) -> Rows:
    """What has an entry per row; the rest are scalars that hold for all of them."""
    return {name: value for name, value in rows.items() if value.ndim > 0}


class TeamLearner(TorchLearner):
    """Learns from blocks of columns.

    A minibatch is taken in pieces of ``micro_batch_size`` steps whose gradients are summed: the
    same gradient, in memory that fits a processor's cache.

    Attributes:
        generator: deals out minibatches, and whatever else learning draws.
        kept: tensors that an algorithm keeps from update to update, beside those of its module.
        entropy_coeff: the schedule of that setting.
    """

    generator: torch.Generator
    kept: dict[str, Tensor]
    entropy_coeff: Scheduler

    # -- what an algorithm fills in ------------------------------------------------------------

    @abstractmethod
    def rows(self, block: RolloutBatch) -> Rows:
        """Columns [T, E, N, ...] -> rows, with advantages and targets.

        Rows are [T E, N, ...] or, as sequences, [E, T, N, ...]; see `steps_per_row`.
        """

    @abstractmethod
    def prepare_minibatch(self, rows: Rows) -> Rows:
        """What the loss of this minibatch needs before any of its pieces is seen.

        Returns:
            Columns to put beside those of ``rows``, one entry per row, or scalars that hold for
            the whole minibatch, such as the weight by which its loss is divided.
        """

    # -- what an algorithm may change ----------------------------------------------------------

    def receive(self, block: RolloutBatch) -> None:
        """What is done with a rollout before anything is learned from it: nothing."""

    def steps_per_row(self, rows: Rows) -> int:
        """Environment steps that a row holds."""
        return 1

    def learn(self, rows: Rows) -> None:
        """All gradient steps on the rows of an iteration."""
        for minibatch in self.minibatches(rows):
            self.update_minibatch(minibatch)

    def update_minibatch(self, minibatch: Rows) -> None:
        """The gradient steps for which a minibatch is used: one, down the algorithm's loss."""
        self.gradient_step({**minibatch, **self.prepare_minibatch(minibatch)}, self.loss)

    def loss(self, piece: Rows) -> Tensor:
        """The algorithm's ``compute_loss_for_module`` after a forward pass."""
        batch = {DEFAULT_MODULE_ID: piece}
        forward = self.module.forward_train(batch)
        return sum(self.compute_losses(fwd_out=forward, batch=batch).values())

    # -- RLlib -------------------------------------------------------------------------------

    def build(self) -> None:
        """Builds module, optimiser and schedules; see RLlib's ``Learner.build``."""
        super().build()
        self.entropy_coeff = Scheduler(self.config.entropy_coeff, framework="torch")
        self.generator = torch.Generator()  # on the CPU, so that its state fits any machine
        if self.config.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.config.seed)
        self.kept = {}
        self._terms: dict[str, Tensor] = {}
        self._network_seconds = 0.0

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """One Adam for everything, with the epsilon of the official MAT code."""
        parameters = self.get_parameters(self.module[module_id])
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.Adam(parameters, eps=config.adam_epsilon),
            params=parameters,
            lr_or_lr_schedule=config.lr,
        )

    def update(
        self,
        training_data: Any = None,
        *,
        timesteps: dict[str, Any] | None = None,
        return_state: bool = False,
    ) -> Any:
        """``num_epochs`` passes over blocks of columns.

        Args:
            training_data: RLlib's ``TrainingData`` with this learner's blocks as ``batch`` or, in
                the driver, as the one entry of ``batches``.
            timesteps: step counts, for schedules.
            return_state: RLlib asks for it of remote learners; the state travels separately.

        Returns:
            Metrics, for RLlib to merge over learners.

        Raises:
            UserError: a loss or a gradient that is not finite; the step that it would have led
                to is not taken.
        """
        begin = time.perf_counter()
        if self.config.num_threads_per_learner is not None:
            torch.set_num_threads(self.config.num_threads_per_learner)
        self.before_gradient_based_update(timesteps=timesteps or {})
        training_data.solve_refs()
        block = concatenate(tree.flatten(training_data.batches or training_data.batch))
        self._network_seconds = 0.0
        self.receive(block)
        rows = self.rows(block)
        self._terms = {}
        self.learn(rows)
        self._weights_seq_no += 1
        self.after_gradient_based_update(timesteps=timesteps or {})
        self._log_update(block.num_env_steps, self.config.num_epochs * self._num_minibatches(rows))
        total = time.perf_counter() - begin
        for part, value in (
            ("forward_backward", self._network_seconds),
            ("learning_other", total - self._network_seconds),
        ):
            self.metrics.log_value(
                (DEFAULT_MODULE_ID, TIME_SPLIT, part), value, reduce="mean", window=1
            )
        return self.metrics.reduce()

    def _num_minibatches(self, rows: Rows) -> int:
        """Minibatches of an epoch: as many for all learners, who wait for each other."""
        size, columns = self.config.minibatch_size, _columns(rows)
        largest = self.max_over_learners(len(next(iter(columns.values()))))
        return 1 if size is None else -(-largest // self._num_rows(size, columns))

    def _num_rows(self, steps: int | None, rows: Rows) -> int:
        """How many of ``rows`` make ``steps`` environment steps; all of them for None."""
        if steps is None:
            return len(next(iter(rows.values())))
        return max(1, steps // self.steps_per_row(rows))

    # -- for algorithms ------------------------------------------------------------------------

    def minibatches(self, rows: Rows, epochs: int | None = None) -> Iterator[Rows]:
        """Passes over rows in minibatches of near-equal size; no row is dropped.

        Scalars among the rows go with every minibatch.

        Args:
            rows: what is dealt out.
            epochs: how many passes; None for the config's ``num_epochs``.
        """
        number, columns = self._num_minibatches(rows), _columns(rows)
        count = len(next(iter(columns.values())))
        for _ in range(self.config.num_epochs if epochs is None else epochs):
            if number == 1:
                yield rows
                continue
            order = torch.randperm(count, generator=self.generator).to(self.device)
            for indices in order.tensor_split(number):
                yield {**rows, **{k: v[indices] for k, v in columns.items()}}

    def pieces(self, rows: Rows) -> Iterator[Rows]:
        """Rows in pieces of ``micro_batch_size`` steps; scalars go with every piece."""
        scalars = {k: v for k, v in rows.items() if v.ndim == 0}
        columns = _columns(rows)
        size = self._num_rows(self.config.micro_batch_size, columns)
        for start in range(0, len(next(iter(columns.values()))), size):
            yield {k: v[start : start + size] for k, v in columns.items()} | scalars

    def gradient_step(self, minibatch: Rows, loss: Callable[[Rows], Tensor]) -> None:
        """One step of those optimisers whose parameters ``loss`` depends on.

        Args:
            minibatch: rows and what `prepare_minibatch` gave.
            loss: of a piece; the pieces' losses add up to that of the minibatch.

        Raises:
            UserError: a loss or a gradient is not finite.
        """
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        module = self.module[DEFAULT_MODULE_ID]
        for piece in self.pieces(minibatch):
            # Gradients of several learners meet once per step, below, and only those there are.
            hold = module.no_sync() if self.distributed else contextlib.nullcontext()
            with hold, self.network_time():
                loss(piece).backward()
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

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Sets learning rates and the entropy coefficient for the steps taken so far.

        RLlib sets learning rates after an update, for the next one. Those of a checkpoint come
        with its optimisers, though, and a run that begins with it may have other ones.
        """
        super().before_gradient_based_update(timesteps=timesteps)
        steps = timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)
        for optimizer, learning_rate in self._optimizer_lr_schedules.items():
            self._set_optimizer_lr(optimizer, lr=float(learning_rate.update(timestep=steps)))
        self.entropy_coeff.update(steps)

    def to_device(self, column: NDArray[Any]) -> Tensor:
        """A NumPy column as a tensor where the module is."""
        if not column.flags.writeable:
            column = column.copy()  # Ray's object store hands out read-only arrays
        return torch.as_tensor(column, device=self.device)

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
        """Learners among whom a minibatch is dealt out; their gradients are averaged."""
        return max(1, self.config.num_learners)

    @contextlib.contextmanager
    def network_time(self) -> Iterator[None]:
        """Counts what happens inside as forward and backward passes."""
        begin = time.perf_counter()
        yield
        self._network_seconds += time.perf_counter() - begin

    def log_terms(self, **terms: Tensor) -> None:
        """Adds to the figures of this update; pieces of a minibatch add up to its figure."""
        for name, value in terms.items():
            value = value.detach()
            self._terms[name] = self._terms[name] + value if name in self._terms else value

    # -- checks and logs -----------------------------------------------------------------------

    @staticmethod
    def require_finite(**values: Tensor) -> None:
        """Stops before a figure that is not finite spoils what is learned.

        Raises:
            UserError: names the first bad one.
        """
        for name, value in values.items():
            if not torch.isfinite(value).all():
                raise UserError(f"{name!r} {_NOT_FINITE}")

    def _check_finite(self) -> None:
        """Stops before a step that would spoil the weights."""
        total = self._terms.get("total_loss")
        gradients = [p.grad for p in self._params.values() if p.grad is not None]
        norms = torch.stack([gradient.abs().sum() for gradient in gradients])
        if torch.isfinite(norms).all() and (total is None or torch.isfinite(total)):
            return
        terms = [name for name, value in self._terms.items() if not torch.isfinite(value)]
        named = self.module[DEFAULT_MODULE_ID].named_parameters()
        broken = [
            name for name, p in named if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        what = f"loss term {terms[0]!r}" if terms else f"gradient of {broken[0]!r}"
        raise UserError(f"{what} {_NOT_FINITE}")

    def _log_update(self, env_steps: int, minibatches: int) -> None:
        for name, value in self._terms.items():
            # float64: a mean over many minibatches, and RLlib merges Python floats.
            self.metrics.log_value(
                (DEFAULT_MODULE_ID, name), float(value) / minibatches, reduce="mean", window=1
            )
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

    # -- state -------------------------------------------------------------------------------

    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> Any:
        """RLlib's state, that of the generator, and what an algorithm keeps."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(GENERATOR, components, not_components):
            state[GENERATOR] = self.generator.get_state().cpu().numpy()
        if self._check_component(KEPT, components, not_components):
            state[KEPT] = {name: value.cpu().numpy() for name, value in self.kept.items()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` gave, as far as it is there."""
        super().set_state(state)
        if GENERATOR in state:
            self.generator.set_state(torch.from_numpy(state[GENERATOR]))
        if KEPT in state:
            self.kept = {k: torch.as_tensor(v, device=self.device) for k, v in state[KEPT].items()}
