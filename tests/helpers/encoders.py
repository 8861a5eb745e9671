"""Encoders of observations from outside of the package, by import paths: good and bad."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]


class Flat(nn.Module):
    """A linear layer over everything; layers that learn their sizes are fine."""

    def __init__(self, shapes: Shapes, width: int) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.linear = nn.LazyLinear(3)

    def forward(self, obs: Tensor | dict[str, Tensor]) -> Tensor:
        arrays = [obs] if isinstance(obs, Tensor) else list(obs.values())
        assert [tuple(x.shape[1:]) for x in arrays] == list(self.shapes.values())
        return self.linear(torch.cat([x.flatten(1) for x in arrays], 1))


class NoWidth(nn.Module):
    """Does not take the width."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()


class Gives(Flat):
    """Gives something else than features."""

    def forward(self, obs: Tensor | dict[str, Tensor]) -> Tensor:
        return self.given(super().forward(obs))

    def given(self, features: Tensor) -> Tensor:
        raise NotImplementedError("not\nyet")


class Words(Gives):
    def given(self, features: Tensor) -> Tensor:
        return "features"  # type: ignore[return-value]


class Whole(Gives):
    def given(self, features: Tensor) -> Tensor:
        return features.long()


class OneAxisMore(Gives):
    def given(self, features: Tensor) -> Tensor:
        return features.unsqueeze(1)


class OneRow(Gives):
    def given(self, features: Tensor) -> Tensor:
        return features[:1]


class NotANumber(Gives):
    def given(self, features: Tensor) -> Tensor:
        return features * torch.nan


class InfiniteOfLit(Gives):
    """Finite for zeros, with which an encoder is tried."""

    def forward(self, obs: Tensor | dict[str, Tensor]) -> Tensor:
        arrays = [obs] if isinstance(obs, Tensor) else list(obs.values())
        lit = (arrays[0].flatten(1) == 1).any(1, keepdim=True)
        return Flat.forward(self, obs).masked_fill(lit, torch.inf)


def not_a_module(shapes: Shapes, width: int) -> dict[str, int]:
    """Gives no module."""
    return {"width": width}
