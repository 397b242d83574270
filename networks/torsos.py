"""Observation encoders: [N, *observation] -> [N, output_size].

Pixels become floats here, on the device. Convolutions and their weights are channels-last.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from networks.config import NetworkConfig
from networks.initialisation import orthogonal
from networks.normaliser import Normaliser

SMALLEST_NATURE = 36
"""Least height and width in pixels for which the Nature CNN's last convolution has an output."""


class Part(NamedTuple):
    """One part of an observation: its `kind` is vector, onehot, picture, symbols or mask.

    `symbols` counts the values of each channel of a grid of symbols; `normalised` vectors are brought to mean 0 and
    deviation 1.
    """

    kind: str
    shape: tuple[int, ...]
    symbols: tuple[int, ...] = ()
    normalised: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def _conv_output(body: nn.Module, shape: tuple[int, ...]) -> int:
    with torch.no_grad():
        return body(torch.zeros(1, *shape)).numel()


class Pixels(nn.Module):
    """Map uint8 pixels [N, C, H, W] to float32, channels-last: to x / 255, or `centred` to (x - mean) / 64.

    `mean` [C, H, W] is that of pictures from before learning begins. The moving objects are few and small, and without
    centring the still background dominates every activation: Pong's critic then explains nothing for the first quarter
    of a million steps.
    """

    def __init__(self, shape: tuple[int, int, int], centred: bool) -> None:
        super().__init__()
        # A parameter, so that it travels to the actors with the weights; it takes no gradient.
        self.mean = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.centred = centred

    @torch.no_grad()
    def fit(self, observation: Tensor) -> None:
        """Set the mean to that of `observation` [N, C, H, W], if the input is centred."""
        if self.centred:
            self.mean.copy_(observation.sum(0) / len(observation))

    def forward(self, observation: Tensor) -> Tensor:
        # Channels-last, as the first convolution needs it, while a pixel is still one byte.
        x = torch.stack(observation.unbind(1), dim=-1).to(torch.float32)
        if self.centred:
            x.sub_(self.mean.permute(1, 2, 0).contiguous())
        return x.mul_(1 / 64 if self.centred else 1 / 255).permute(0, 3, 1, 2)


class ConvTorso(nn.Module):
    """Convolutions of `layers` (channels, kernel, stride, padding), each with a ReLU, and a linear layer."""

    def __init__(
        self, shape: tuple[int, int, int], layers: Sequence[tuple[int, int, int, int]], hidden: int, centred: bool
    ) -> None:
        super().__init__()
        self.output_size = hidden
        self.pixels = Pixels(shape, centred)
        body: list[nn.Module] = []
        before = shape[0]
        for channels, *kernel in layers:
            body += [nn.Conv2d(before, channels, *kernel), nn.ReLU(inplace=True)]
            before = channels
        self.body = nn.Sequential(*body, nn.Flatten())
        self.linear = nn.Linear(_conv_output(self.body, shape), hidden)
        orthogonal(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, observation: Tensor) -> Tensor:
        return self.linear(self.body(self.pixels(observation))).relu()


class NatureTorso(ConvTorso):
    """The three convolutions of Mnih et al. 2015, with `channels` (32, 64, 64) there, and a linear layer."""

    def __init__(
        self, shape: tuple[int, int, int], channels: tuple[int, int, int], hidden: int, centred: bool = False
    ) -> None:
        first, second, third = channels
        super().__init__(shape, [(first, 8, 4, 0), (second, 4, 2, 0), (third, 3, 1, 0)], hidden, centred)


class SmallTorso(ConvTorso):
    """Two convolutions of 3 x 3 and a linear layer, for pictures too small for the Nature CNN; the second one has
    stride 2 where both sides have 16 pixels or more."""

    def __init__(
        self, shape: tuple[int, int, int], channels: tuple[int, int], hidden: int, centred: bool = False
    ) -> None:
        first, second = channels
        stride = 2 if min(shape[1:]) >= 16 else 1
        super().__init__(shape, [(first, 3, 1, 1), (second, 3, stride, 1)], hidden, centred)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu())


class ResNetTorso(nn.Module):
    """The IMPALA ResNet (Espeholt et al. 2018); `channels` of its sections are (64, 128, 128) in V-MPO on Atari."""

    def __init__(
        self, shape: tuple[int, int, int], channels: tuple[int, ...], hidden: int, centred: bool = False
    ) -> None:
        super().__init__()
        self.output_size = hidden
        self.pixels = Pixels(shape, centred)
        sections: list[nn.Module] = []
        for before, after in zip((shape[0], *channels), channels, strict=False):
            sections += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            sections += [ResidualBlock(after), ResidualBlock(after)]
        self.body = nn.Sequential(*sections, nn.ReLU(), nn.Flatten())
        self.linear = nn.Linear(_conv_output(self.body, shape), hidden)
        self.to(memory_format=torch.channels_last)

    def forward(self, observation: Tensor) -> Tensor:
        return self.linear(self.body(self.pixels(observation))).relu()


class SymbolTorso(nn.Module):
    """Two convolutions of 3 x 3 over a grid of symbols [H, W, C], and a linear layer.

    Each value of each channel is one-hot, so that the first convolution has an embedding for it: a door is not twice a
    wall. Channel c has `symbols[c]` values; larger ones count as the last.
    """

    def __init__(
        self, shape: tuple[int, int, int], symbols: tuple[int, ...], channels: tuple[int, int], hidden: int
    ) -> None:
        super().__init__()
        height, width, _ = shape
        self.output_size, self.inputs = hidden, sum(symbols)
        sizes = torch.tensor(symbols)
        self.register_buffer("last", sizes - 1, persistent=False)
        self.register_buffer("start", sizes.cumsum(0) - sizes, persistent=False)
        padding = (int(height < 5), int(width < 5))
        self.body = nn.Sequential(
            nn.Conv2d(self.inputs, channels[0], 3, padding=padding),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels[0], channels[1], 3, padding=padding),
            nn.ReLU(inplace=True),
            nn.Flatten(),
        )
        self.linear = nn.Linear(_conv_output(self.body, (self.inputs, height, width)), hidden)
        orthogonal(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, observation: Tensor) -> Tensor:
        symbols = observation.long().clamp(min=0).minimum(self.last) + self.start
        x = torch.zeros(*symbols.shape[:3], self.inputs, device=symbols.device).scatter_(-1, symbols, 1.0)
        return self.linear(self.body(x.permute(0, 3, 1, 2))).relu()


class MLPTorso(nn.Module):
    """Two tanh layers on a vector, whose entries where `normalised` [size] are brought to mean 0 and deviation 1."""

    def __init__(self, size: int, hidden: int, normalised: Sequence[bool] = ()) -> None:
        super().__init__()
        self.output_size = hidden
        self.normaliser = Normaliser(normalised) if any(normalised) else None
        self.body = nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        orthogonal(self)

    def forward(self, observation: Tensor) -> Tensor:
        x = observation.flatten(1).to(self.body[0].weight.dtype)
        return self.body(self.normaliser(x) if self.normaliser else x)


class MixedTorso(nn.Module):
    """Encoder of several parts joined in one vector: one MLP for all vectors and one-hots, an encoder for each picture
    and grid of symbols, and a linear layer on all their features."""

    def __init__(self, config: NetworkConfig, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.output_size = config.torso_hidden
        flat = [part for part in parts if part.kind in FLAT]
        self.vector = _mlp(config, flat) if flat else None
        grids = [part for part in parts if part.kind in ("picture", "symbols")]
        self.grids = nn.ModuleList(_single(config, part) for part in grids)
        features = sum(torso.output_size for torso in (*self.grids, *([self.vector] if self.vector else [])))
        self.linear = nn.Linear(features, config.torso_hidden)
        orthogonal(self.linear)

    def split(self, observation: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """Split [N, size] into vectors and one-hots [N, n], None if there are none, and each picture or grid."""
        pieces = observation.split([part.size for part in self.parts], -1)
        flat = [x for x, part in zip(pieces, self.parts, strict=True) if part.kind in FLAT]
        shaped = [
            x.unflatten(-1, part.shape)
            for x, part in zip(pieces, self.parts, strict=True)
            if part.kind in ("picture", "symbols")
        ]
        return torch.cat(flat, -1) if flat else None, shaped

    def forward(self, observation: Tensor) -> Tensor:
        flat, shaped = self.split(observation)
        features = [torso(x) for torso, x in zip(self.grids, shaped, strict=True)]
        if self.vector is not None:
            features.append(self.vector(flat))
        return self.linear(torch.cat([x.to(self.linear.weight.dtype) for x in features], -1)).relu()


FLAT = ("vector", "onehot")
Torso = NatureTorso | ResNetTorso | SmallTorso | SymbolTorso | MLPTorso | MixedTorso


def torso_of(parts: Sequence[Part]) -> str:
    """Return the name of the torso for observations of `parts` with --torso auto."""
    inputs = [part for part in parts if part.kind != "mask"]
    if len(inputs) > 1:
        return "mixed"
    part = inputs[0]
    if part.kind == "picture":
        return "nature" if min(part.shape[1:]) >= SMALLEST_NATURE else "small"
    return "symbols" if part.kind == "symbols" else "mlp"


def make_torso(config: NetworkConfig, parts: Sequence[Part]) -> Torso:
    """Make the encoder for observations of `parts`; `config.torso` is that of pictures."""
    if len(parts) > 1:
        return MixedTorso(config, parts)
    return _single(config, parts[0])


def _single(config: NetworkConfig, part: Part) -> Torso:
    if part.kind == "symbols":
        return SymbolTorso(part.shape, part.symbols, config.nature_channels[:2], config.torso_hidden)
    if part.kind in FLAT:
        return _mlp(config, [part])
    name = torso_of([part]) if config.torso == "auto" else config.torso
    if name == "nature":
        return NatureTorso(part.shape, config.nature_channels, config.torso_hidden, config.centre_pixels)
    if name == "small":
        return SmallTorso(part.shape, config.nature_channels[:2], config.torso_hidden, config.centre_pixels)
    return ResNetTorso(part.shape, config.resnet_channels, config.torso_hidden, config.centre_pixels)


def _mlp(config: NetworkConfig, parts: Sequence[Part]) -> MLPTorso:
    normalised = [part.normalised for part in parts for _ in range(part.size)]
    return MLPTorso(len(normalised), config.torso_hidden, normalised)


def modules_of(torso: Torso, observation: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """Return each Normaliser or Pixels of `torso`, which have statistics of their input, with its part of `observation`
    [N, ...]."""
    if isinstance(torso, MixedTorso):
        flat, shaped = torso.split(observation)
        pairs = list(zip(torso.grids, shaped, strict=True))
        pairs += [(torso.vector, flat)] if torso.vector is not None else []
    else:
        pairs = [(torso, observation)]
    modules = ((getattr(each, "normaliser", None) or getattr(each, "pixels", None), x) for each, x in pairs)
    return [(module, x) for module, x in modules if module is not None]
