"""The recurrence of a GRU over whole sequences, with its gradient by hand.

With the input's part x W_x + b_x of the gates made beforehand for all steps, H the width of the
state, and h' the state h where an episode goes on and 0 at its first step, step t is

    [a_r, a_z, a_n] = h' W + b
    r = sigmoid(x_r + a_r),  z = sigmoid(x_z + a_z),  n = tanh(x_n + r a_n)
    h = (1 - z) n + z h'

which is Cho et al. 2014 with the gates of ``torch.nn.GRUCell``. The gradient g of h is that of the
output at step t and what comes back from step t + 1, and everything is linear in it:

    d_xn = g (1 - z) (1 - n^2)                  d_an = d_xn r
    d_xr = d_ar = d_xn a_n r (1 - r)            d_xz = d_az = g (h' - n) z (1 - z)
    d_h' = g z + [d_ar, d_az, d_an] W^T

The factors of g are made for all steps at once, and so are the gradients of W and b, one product
each. At every step a product of matrices and a few passes over [L, 4 H] numbers are left;
autograd's way records, saves and sums up some 15 operations.

T steps, L rows, M sets of parameters. An axis M in front is optional, in all arguments at once.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx, once_differentiable

from rllib_seqmarl.matmul import multiply_with

#: Multiplications of a product below which torch's BLAS is the faster library: oneDNN takes some
#: 10 microseconds to begin.
_SMALL = 2**20


def gru(gates: Tensor, hidden: Tensor, is_first: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The states of L rows after each of T steps.

    Args:
        gates: x W_x + b_x in the order r, z, n, [(M,) T, L, 3 H].
        hidden: before the first step, [(M,) L, H]. What an episode must not see may be infinite.
        is_first: steps at which an episode begins, bool [T, L].
        weight: W, [(M,) H, 3 H].
        bias: b, [(M,) 3 H].

    Returns:
        [(M,) T, L, H].
    """
    if torch.compiler.is_compiling():  # a program holds neither a gradient by hand nor a choice
        return _step_by_step(gates, hidden, is_first, weight, bias)
    states: Tensor = _GRU.apply(gates, hidden, is_first, weight, bias)
    return states


def _step_by_step(
    gates: Tensor, hidden: Tensor, is_first: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """`gru` as the equations have it; arguments as there."""
    states = []
    for x, first in zip(gates.unbind(-3), is_first.unbind(0), strict=True):
        before = hidden.masked_fill(first.unsqueeze(-1), 0.0)
        a_r, a_z, a_n = (before @ weight + bias.unsqueeze(-2)).chunk(3, dim=-1)
        x_r, x_z, x_n = x.chunk(3, dim=-1)
        r, z = torch.sigmoid(x_r + a_r), torch.sigmoid(x_z + a_z)
        hidden = torch.lerp(torch.tanh(x_n + r * a_n), before, z)
        states.append(hidden)
    return torch.stack(states, dim=-3)


def _add_product(x: Tensor, left: Tensor, right: Tensor, out: Tensor) -> None:
    """X + left @ right into ``out``, of matrices or of M of them."""
    (torch.addmm if right.ndim == 2 else torch.baddbmm)(x, left, right, out=out)


def _products_of_a_step(weight: Tensor, rows: int) -> contextlib.AbstractContextManager[None]:
    """Inside, [(M,) L, H] @ W is computed by the library that suits its size."""
    small = weight.numel() * rows < _SMALL
    return multiply_with("blas") if small else contextlib.nullcontext()


def _steps_of(*columns: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """Views of the steps of columns [(M,) T, L, ...], made at once: cheaper than one by one."""
    return tuple(column.unbind(-3) for column in columns)


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        gates: Tensor,
        hidden: Tensor,
        is_first: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        width = hidden.shape[-1]
        inner = torch.empty_like(gates)  # r, z, a_n
        states = gates.new_empty(*gates.shape[:-1], width)
        candidates = torch.empty_like(states)
        # tanh(x) is 2 sigmoid(2 x) - 1: torch's sigmoid takes a sixth of the time of its tanh.
        doubled = 2.0 * gates[..., 2 * width :]
        minus_one, bias = gates.new_tensor(-1.0), bias.unsqueeze(-2)
        before = [hidden]
        with _products_of_a_step(weight, hidden.shape[-2]):
            for begins, first, xo, xn, a, o, r, z, an, n, h in zip(
                is_first.any(-1).tolist(),
                is_first.unsqueeze(-1),
                *_steps_of(gates[..., : 2 * width], doubled, inner, inner[..., : 2 * width]),
                *_steps_of(*inner.chunk(3, dim=-1), candidates, states),
                strict=True,
            ):
                if begins:
                    # Masked, not multiplied: garbage from before the episode may be infinite.
                    before[-1] = before[-1].masked_fill(first, 0.0)
                _add_product(bias, before[-1], weight, out=a)
                o.add_(xo).sigmoid_()
                torch.addcmul(xn, r, an, value=2.0, out=n).sigmoid_()
                torch.add(minus_one, n, alpha=2.0, out=n)
                before.append(torch.lerp(n, before[-1], z, out=h))
        ctx.save_for_backward(before[0], is_first, weight, inner, candidates, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        hidden, is_first, weight, inner, n, states = saved
        r, z, a_n = inner.chunk(3, dim=-1)
        first, begins = is_first.unsqueeze(-1), is_first.any(-1).tolist()
        before = torch.cat((hidden.unsqueeze(-3), states[..., :-1, :, :]), dim=-3)  # h'
        if any(begins):
            before = before.masked_fill(first, 0.0)
        # The factors of g, then the gradients: of a_n, (a_r, x_r), (a_z, x_z) and x_n. So those of
        # a stand together, in another order than in W, and so do those of x.
        width = z.shape[-1]
        factors = torch.empty(*z.shape[:-1], 4 * width, dtype=z.dtype, device=z.device)
        of_a, of_r, of_z, of_n = factors.chunk(4, dim=-1)
        # x (1 - y) is x - x y, without new memory in between.
        torch.addcmul(n.new_ones(()), n, n, value=-1.0, out=of_n)
        of_n.addcmul_(of_n, z, value=-1.0)
        torch.mul(of_n, r, out=of_a)
        torch.mul(of_a, a_n, out=of_r)
        of_r.addcmul_(of_r, r, value=-1.0)
        torch.sub(before, n, out=of_z).mul_(z)
        of_z.addcmul_(of_z, z, value=-1.0)
        d_a, d_x = factors[..., : 3 * width], factors[..., width:]
        gradients = torch.empty_like(states)
        d_hidden = torch.empty_like(hidden)
        weight = weight.roll(width, -1).transpose(-1, -2).contiguous()
        # What reaches the state before step t: directly, and in all. The first one is no output.
        direct = (torch.zeros_like(hidden), *grad.unbind(-3))
        g = (d_hidden, *gradients.unbind(-3))
        g[-1].copy_(direct[-1])
        (zs, das), planes = _steps_of(z, d_a), factors.unflatten(-1, (4, -1)).unbind(-4)
        with _products_of_a_step(weight, hidden.shape[-2]):
            for t in range(len(begins) - 1, -1, -1):
                planes[t].mul_(g[t + 1].unsqueeze(-2))
                torch.addcmul(direct[t], g[t + 1], zs[t], out=g[t])
                _add_product(g[t], das[t], weight, out=g[t])
                if begins[t]:
                    torch.where(first[t], direct[t], g[t], out=g[t])
        rows = d_a.flatten(-3, -2)  # [(M,) T L, 3 H]
        d_weight = before.flatten(-3, -2).transpose(-1, -2) @ rows
        return d_x, d_hidden, None, d_weight.roll(-width, -1), rows.sum(-2).roll(-width, -1)
