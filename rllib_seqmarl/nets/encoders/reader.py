"""What stands between an observation and the network that reads it: nothing, or an encoder.

An encoder is a torch module that is built with the shapes of what it reads and the width of the
network behind it, ``Encoder(shapes, width)``, and turns an observation into features:

- An observation that is one array comes as a tensor [B, *shape], any other one as a dict of such
  tensors by name. Bytes are divided by 255; B counts agents of all environments and steps.
- Features are a tensor [B, F], any F. They must depend on the observation alone: in training a
  network must say of an action what it said when the action was taken, so that dropout and batch
  normalisation have no place in an encoder.

An agent's slot does not go through the encoder: it is put behind the features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rllib_seqmarl.errors import UserError
from rllib_seqmarl.layout import REMEDIES, Layout
from rllib_seqmarl.names import reason_of
from rllib_seqmarl.registry import ENCODERS


def as_reals(obs: Tensor) -> Tensor:
    """Observations as real numbers: bytes are divided by 255, real numbers stay what they are."""
    return obs if obs.is_floating_point() else obs.float() / 255.0


class ObservationReader(nn.Module):
    """Observations [..., D] -> what a network reads of them, [..., F].

    Args:
        layout: what an observation consists of.
        encoder: a name of `registry.ENCODERS`, or an import path; None: the network reads the D
            numbers themselves.
        width: of the network behind it.

    Attributes:
        output_size: F.

    Raises:
        UserError: no encoder for an image; or one that cannot be built, or that gives something
            else than [B, F] finite numbers.
    """

    def __init__(self, layout: Layout, encoder: str | None = None, width: int = 64) -> None:
        super().__init__()
        self.layout = layout
        self.encoder: nn.Module | None = None
        self.output_size = layout.size
        if encoder is None:
            layout.require_flat("the observation", REMEDIES)
            return
        self._name = f"observation_encoder {encoder!r}"
        self.encoder = self._built(encoder, width)
        self.output_size = self._num_features() + layout.agent_id

    def forward(self, obs: Tensor) -> Tensor:
        """See the class; ``obs`` is float, or uint8 that is divided by 255 here."""
        x = as_reals(obs)
        if self.encoder is None:
            return x
        rows = x.flatten(0, -2)  # [B, D]
        *parts, slot = rows.split([*(e.size for e in self.layout.entries), self.layout.agent_id], 1)
        features = self._features(parts)
        # Without gradients, as while acting, before an action is drawn from what is no number.
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._require_finite(features, rows)
        return torch.cat((features, slot), 1).unflatten(0, x.shape[:-1])

    def _features(self, parts: list[Tensor]) -> Tensor:
        """[B, size] of each entry -> [B, F]."""
        assert self.encoder is not None
        entries = self.layout.entries
        arrays = {
            entry.name: part.unflatten(1, entry.shape)
            for entry, part in zip(entries, parts, strict=True)
        }
        features = self.encoder(arrays if len(entries) > 1 else arrays[entries[0].name])
        expected = f"[{len(parts[0])}, F]"
        if not isinstance(features, Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise UserError(f"{self._name} gave {kind} for {self.layout}: {expected} is needed.")
        if features.ndim != 2 or len(features) != len(parts[0]):
            raise UserError(
                f"{self._name} gave a tensor {list(features.shape)} for {len(parts[0])} "
                f"observations of {self.layout}: {expected} is needed."
            )
        return features

    def _require_finite(self, features: Tensor, obs: Tensor) -> None:
        """Of finite observations: others are the environment's fault, which the runner names."""
        if torch.isfinite(features.sum()) or torch.isfinite(features).all():
            return
        if torch.isfinite(obs).all():
            raise UserError(
                f"{self._name} gave NaN or infinite features of finite observations: fix it."
            )

    def _built(self, encoder: str, width: int) -> nn.Module:
        made: Callable[..., object] = ENCODERS.resolve(encoder)
        try:
            module = made(self.layout.shapes, width)
        except UserError:
            raise
        except Exception as error:  # code from outside may fail in any way
            raise UserError(
                f"{self._name} cannot be built as Encoder(shapes, width) with shapes "
                f"{self.layout.shapes} and width {width}: {reason_of(error)}."
            ) from error
        if not isinstance(module, nn.Module):
            raise UserError(f"{self._name} is a {type(module).__name__}, not a torch.nn.Module.")
        return module

    def _num_features(self) -> int:
        """F, of two observations of zeros; layers that learn their sizes do so here."""
        assert self.encoder is not None
        zeros = [torch.zeros(2, entry.size) for entry in self.layout.entries]
        self.encoder.eval()
        try:
            with torch.no_grad():
                features = self._features(zeros)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self._name} failed on two observations of zeros, {self.layout}: "
                f"{reason_of(error)}."
            ) from error
        self._require_finite(features, torch.zeros(1))
        self.encoder.train()
        return features.shape[1]


class CriticReader(nn.Module):
    """A state and n observations side by side, [..., S + n D] -> [..., S + n F].

    Args:
        reader: of each observation.
        state_size: S; 0 for no state.
        num_obs: n.
    """

    def __init__(self, reader: ObservationReader, state_size: int, num_obs: int) -> None:
        super().__init__()
        self.reader = reader
        self.state_size, self.num_obs = state_size, num_obs
        self.output_size = state_size + num_obs * reader.output_size

    def forward(self, x: Tensor) -> Tensor:
        """See the class; without a state bytes may come, as in `ObservationReader`."""
        obs = x[..., self.state_size :].unflatten(-1, (self.num_obs, -1))
        features = self.reader(obs).flatten(-2)
        if not self.state_size:
            return features
        return torch.cat((x[..., : self.state_size], features), -1)
