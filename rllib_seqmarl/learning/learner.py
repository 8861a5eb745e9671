"""The learner of blocks of columns: minibatches, gradient steps, checks and timing.

An algorithm fills in two things: `rows`, from columns to the rows that are learned from, and
RLlib's ``compute_loss_for_module``, the loss of some of these rows.
"""

from __future__ import annotations

import contextlib
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from torch import Tensor

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.rollout.block import RolloutBlock, concatenate
from rllib_seqmarl.rollout.metrics import TIME_SPLIT

GENERATOR = "generator"

_NOT_FINITE = (
    "is not finite; training stops before the weights are spoilt. Lower lr, set grad_clip, or look "
    "at the scale of rewards and observations; the last checkpoint is good."
)

Rows = dict[str, Tensor]


class TeamLearner(TorchLearner):
    """Learns from blocks of columns.

    A minibatch is taken in pieces of ``micro_batch_size`` rows whose gradients are summed: the
    same gradient, in memory that fits a processor's cache.
    """

    # -- what an algorithm fills in ------------------------------------------------------------

    @abstractmethod
    def rows(self, block: RolloutBlock) -> Rows:
        """Columns [T, E, N, ...] -> rows [T E, N, ...], with advantages and targets."""

    @abstractmethod
    def start_minibatch(self, rows: Rows) -> Rows:
        """What the loss of this minibatch needs before any of its pieces is seen.

        Returns:
            Columns to put beside those of ``rows``, one entry per row, or scalars that hold for
            the whole minibatch, such as the weight by which its loss is divided.
        """

    # -- RLlib -------------------------------------------------------------------------------

    def build(self) -> None:
        """Builds module and optimiser; see RLlib's ``Learner.build``."""
        super().build()
        self.generator = torch.Generator()  # on the CPU, so that its state fits any machine
        if self.config.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.config.seed)
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
            training_data: RLlib's ``TrainingData`` with a block as ``batch`` or several as
                ``batches``.
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
        blocks = training_data.batches or [training_data.batch]
        block = concatenate(blocks)
        self._network_seconds = 0.0
        rows = self.rows(block)
        count = len(next(iter(rows.values())))
        # The same number for all learners, who wait for each other at every step.
        largest = self.max_over_learners(count)
        pieces = -(-largest // (self.config.minibatch_size or largest))
        self._terms = {}
        for _ in range(self.config.num_epochs):
            for indices in self._minibatches(count, pieces):
                minibatch = rows if indices is None else {k: v[indices] for k, v in rows.items()}
                self._gradient_step(minibatch)
        self._weights_seq_no += 1
        self.after_gradient_based_update(timesteps=timesteps or {})
        self._log_update(block.num_env_steps, self.config.num_epochs * pieces)
        total = time.perf_counter() - begin
        for part, value in (
            ("forward_backward", self._network_seconds),
            ("learning_other", total - self._network_seconds),
        ):
            self.metrics.log_value(
                (DEFAULT_MODULE_ID, TIME_SPLIT, part), value, reduce="mean", window=1
            )
        return self.metrics.reduce()

    def _minibatches(self, count: int, pieces: int) -> list[Tensor | None]:
        """Row indices of one epoch's minibatches, of near-equal size; no row is dropped."""
        if pieces == 1:
            return [None]
        order = torch.randperm(count, generator=self.generator)
        return list(order.to(self.device).tensor_split(pieces))

    def _gradient_step(self, minibatch: Rows) -> None:
        minibatch = {**minibatch, **self.start_minibatch(minibatch)}
        scalars = {k: v for k, v in minibatch.items() if v.ndim == 0}
        columns = {k: v for k, v in minibatch.items() if v.ndim > 0}
        count = len(next(iter(columns.values())))
        size = self.config.micro_batch_size or count
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        module = self.module[DEFAULT_MODULE_ID]
        for start in range(0, count, size):
            piece = {k: v[start : start + size] for k, v in columns.items()} | scalars
            last = start + size >= count
            # With several learners, gradients travel once per step, with the last piece.
            hold = module.no_sync() if self.distributed and not last else contextlib.nullcontext()
            with hold, self.network_time():
                batch = {DEFAULT_MODULE_ID: piece}
                forward = self.module.forward_train(batch)
                loss = sum(self.compute_losses(fwd_out=forward, batch=batch).values())
                loss.backward()
        self._check_finite()
        gradients = {ref: p.grad for ref, p in self._params.items() if p.grad is not None}
        self.apply_gradients(self.postprocess_gradients(gradients))

    # -- for algorithms ------------------------------------------------------------------------

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
        """RLlib's state, and that of the generator that deals out minibatches."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(GENERATOR, components, not_components):
            state[GENERATOR] = self.generator.get_state().cpu().numpy()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` gave, as far as it is there."""
        super().set_state(state)
        if GENERATOR in state:
            self.generator.set_state(torch.from_numpy(state[GENERATOR]))
