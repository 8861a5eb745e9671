"""The layers that the networks are made of, initialised as in the official MAT code."""

from __future__ import annotations

import math

from torch import nn

#: Gain of the orthogonal initialisation before a GELU, and everywhere else.
GAIN_BEFORE_GELU = math.sqrt(2.0)
GAIN = 0.01


def linear(inputs: int, outputs: int, gain: float = GAIN, bias: bool = True) -> nn.Linear:
    """A linear layer with orthogonal weights and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.orthogonal_(layer.weight, gain=gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def head(width: int, outputs: int) -> nn.Sequential:
    """Linear, GELU, LayerNorm, Linear: the shape of MAT's action and value heads."""
    return nn.Sequential(
        linear(width, width, GAIN_BEFORE_GELU),
        nn.GELU(),
        nn.LayerNorm(width),
        linear(width, outputs),
    )


def feed_forward(width: int) -> nn.Sequential:
    """MAT's feed-forward layer: the hidden layer is no wider than the model."""
    return nn.Sequential(
        linear(width, width, GAIN_BEFORE_GELU),
        nn.GELU(),
        linear(width, width),
    )


def embedding(inputs: int, width: int) -> nn.Sequential:
    """LayerNorm, Linear, GELU: MAT's embedding of an observation."""
    return nn.Sequential(nn.LayerNorm(inputs), linear(inputs, width, GAIN_BEFORE_GELU), nn.GELU())
