"""Which library multiplies float32 matrices on the CPU: torch's BLAS or oneDNN.

In torch's wheels for x86 the BLAS is MKL, which keeps to AVX2 on processors that are not Intel's;
oneDNN uses the AVX-512 of all of them and takes about half the time there. torch has one switch
that gives it float32 products, and the switch also permits bfloat16 inside of them, which oneDNN
uses on processors with AMX. So what it really computes is tried before it is used.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from rllib_seqmarl.errors import UserError

logger = logging.getLogger(__name__)

Library = Literal["blas", "onednn"]
Choice = Literal["auto", "blas", "onednn"]

#: The largest error of a float32 product, relative to its largest entry. Sums of up to 1,024
#: products stay below 1e-6; bfloat16, with 8 bits, errs by more than 1e-3.
TOLERANCE = 1e-5

#: Rows of a product with a matrix of width 64 from which oneDNN is the faster one.
FEW_ROWS = 320

#: Rows, summands and columns of the products that are tried: with many rows as in a forward pass,
#: with many summands as in the gradient of a weight, and of few rows.
_TRIED = ((1024, 64, 64), (64, 1024, 192), (8, 64, 64), (256, 200, 64))


@contextlib.contextmanager
def multiply_with(choice: Choice) -> Iterator[None]:
    """Products of float32 matrices on the CPU are computed as `library` says while inside.

    The switch is the whole process's, threads included.

    Raises:
        UserError: as of `library`.
    """
    with _switched_to(library(choice)):
        yield


@contextlib.contextmanager
def multiply_few_rows(rows: int) -> Iterator[None]:
    """Products of float32 matrices with so few rows go to torch's BLAS, whatever the choice is.

    oneDNN takes longer to begin than such a product takes: with 32 rows of 64 numbers, as where 32
    environments decide agent by agent, three times as long.

    Args:
        rows: of the products inside; from `FEW_ROWS` on, nothing changes.
    """
    with contextlib.nullcontext() if rows >= FEW_ROWS else _switched_to("blas"):
        yield


@cache
def library(choice: Choice) -> Library:
    """The library that ``choice`` means on this machine.

    ``auto`` goes by the processor and not by a clock, so that it is the same in every process and
    in every run: oneDNN where MKL does without AVX-512 and oneDNN is exact.

    Raises:
        UserError: oneDNN is asked for, and cannot be had or would not compute in float32.
    """
    if choice == "auto":
        chosen: Library = "onednn" if _mkl_lacks_avx512() and _why_not_onednn() is None else "blas"
        logger.info("matrix products on the CPU: %s.", chosen)
        return chosen
    if choice == "onednn" and (reason := _why_not_onednn()):
        raise UserError(f"config key 'matmul' cannot be 'onednn' here: {reason}. Use 'auto'.")
    return choice


def is_exact(multiply: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether the products of float32 matrices are float32 products, beyond rounding of sums."""
    generator = torch.Generator().manual_seed(0)
    for rows, summands, columns in _TRIED:
        a = torch.randn(rows, summands, generator=generator)
        b = torch.randn(columns, summands, generator=generator).T  # as the weight of a layer is
        exact = a.double() @ b.double()
        if (multiply(a, b) - exact).abs().max() > TOLERANCE * exact.abs().max():
            return False
    return True


class _Switch(Protocol):
    """torch's: "ieee" for its BLAS, "bf16" for oneDNN, "none" where nobody has set it."""

    fp32_precision: str


def _switch() -> _Switch | None:
    """The switch, from torch 2.9 on, where torch is built with oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return None
    return cast("_Switch | None", getattr(torch.backends.mkldnn, "matmul", None))


@contextlib.contextmanager
def _switched_to(chosen: Library) -> Iterator[None]:
    """Inside, this library multiplies; in an older torch without the switch, its BLAS always."""
    switch = _switch()
    if switch is None:
        yield
        return
    precision = "bf16" if chosen == "onednn" else "ieee"
    before, switch.fp32_precision = switch.fp32_precision, precision
    try:
        yield
    finally:
        switch.fp32_precision = before


@cache
def _why_not_onednn() -> str | None:
    """Why oneDNN must not multiply here; None where it may."""
    if _switch() is None:
        return "it needs torch 2.9 or later, built with oneDNN"
    with _switched_to("onednn"):
        exact = is_exact(torch.matmul)
    return None if exact else "on this processor it would round the factors to bfloat16"


def _mkl_lacks_avx512() -> bool:
    """Whether torch multiplies with MKL on a processor whose AVX-512 MKL does not use."""
    if not torch.backends.mkl.is_available():
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
