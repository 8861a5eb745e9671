"""The encoders that are there already: layers for every entry, their features side by side.

``mlp`` reads every entry as a vector. ``cnn`` reads images [height, width, channels], [channels,
height, width] or [height, width] with convolutions, and other entries as `MLPEncoder` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rllib_seqmarl.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]

#: Channels of the convolutions, which halve an image until its sides are no longer than this.
_CHANNELS = (16, 32, 64, 64)
_SIDE = 4


class EntryEncoder(nn.Module):
    """Layers for every entry, [B, *shape] -> [B, D] each, side by side.

    Args:
        shapes: of the entries, by name.
        width: D, features of each.
    """

    def __init__(self, shapes: Shapes, width: int) -> None:
        super().__init__()
        self.entries = nn.ModuleList(
            self.layers(name, shape, width) for name, shape in shapes.items()
        )

    def layers(self, name: str, shape: tuple[int, ...], width: int) -> nn.Module:
        """The layers of one entry: Linear, ReLU, Linear, ReLU."""
        hidden = _initialised(nn.Linear(math.prod(shape), width))
        return nn.Sequential(
            nn.Flatten(), hidden, nn.ReLU(), _initialised(nn.Linear(width, width)), nn.ReLU()
        )

    def forward(self, obs: Tensor | dict[str, Tensor]) -> Tensor:
        """One entry, or all by name -> [B, number of entries x D]."""
        arrays = [obs] if isinstance(obs, Tensor) else list(obs.values())
        return torch.cat([one(x) for one, x in zip(self.entries, arrays, strict=True)], 1)


class MLPEncoder(EntryEncoder):
    """``mlp``."""


class CNNEncoder(EntryEncoder):
    """``cnn``.

    Raises:
        UserError: there is no image, or one with more axes than an image has.
    """

    def __init__(self, shapes: Shapes, width: int) -> None:
        if all(len(shape) < 2 for shape in shapes.values()):
            raise UserError(
                "observation_encoder 'cnn' finds no image in the observation, "
                f"{', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())}: leave "
                "env_config 'flatten' at false if it has been made a vector, or use 'mlp'."
            )
        super().__init__(shapes, width)

    def layers(self, name: str, shape: tuple[int, ...], width: int) -> nn.Module:
        """Of an image: convolutions [3, 3] of stride 2 with ReLU, then Linear, ReLU.

        Raises:
            UserError: more axes than an image has.
        """
        if len(shape) < 2:
            return super().layers(name, shape, width)
        if len(shape) > 3:
            raise UserError(
                f"observation_encoder 'cnn' reads images of two or three axes, and {name!r} is "
                f"{list(shape)}: use 'mlp', an encoder of your own, or stack the channels."
            )
        axis = channel_axis(shape)
        channels = 1 if axis is None else shape[axis]
        sides = [side for i, side in enumerate(shape) if i != axis]
        layers: list[nn.Module] = [ChannelsFirst(axis)]
        for outputs in _CHANNELS:
            layers += [_initialised(nn.Conv2d(channels, outputs, 3, 2, 1)), nn.ReLU()]
            channels, sides = outputs, [(side + 1) // 2 for side in sides]
            if max(sides) <= _SIDE:
                break
        linear = _initialised(nn.Linear(channels * math.prod(sides), width))
        return nn.Sequential(*layers, nn.Flatten(), linear, nn.ReLU())


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Which axis of an image counts channels: 2 or 0; None of [height, width].

    The axis beside two equal ones; otherwise the shorter one of first and last.
    """
    if len(shape) == 2:
        return None
    first, second, third = shape
    if first == second or second == third:
        return 2 if first == second else 0
    return 2 if third < first else 0


class ChannelsFirst(nn.Module):
    """Images [B, *shape] -> [B, C, height, width].

    Args:
        axis: of the channels, without B; None: one channel without an axis.
    """

    def __init__(self, axis: int | None) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.unsqueeze(1) if self.axis is None else x.movedim(self.axis + 1, 1)


def _initialised(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """With orthogonal weights of the gain before a ReLU, and zero bias."""
    nn.init.orthogonal_(layer.weight, gain=math.sqrt(2.0))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
