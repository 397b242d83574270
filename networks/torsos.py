"""Observation encoders: [N, *observation] -> [N, output_size].

Pixels become floats here, on the device that computes. Convolutions compute channels-last, as their weights are.
"""

import math

import torch
from torch import Tensor, nn

from networks.config import NetworkConfig
from networks.initialisation import orthogonal


def _conv_output(body: nn.Module, shape: tuple[int, ...]) -> int:
    with torch.no_grad():
        return body(torch.zeros(1, *shape)).numel()


class Pixels(nn.Module):
    """uint8 pixels [N, C, H, W] to float32, channels-last: in [0, 1], or centred on what a pixel mostly shows.

    Centred, x becomes (x - mean) / 64, `mean` [C, H, W] that of pictures seen before learning begins. What moves is a
    few small things on a large still picture, whose share of every activation otherwise hides theirs: the critic of
    Pong then explains nothing for its first quarter of a million steps.
    """

    def __init__(self, shape: tuple[int, int, int], centred: bool) -> None:
        super().__init__()
        # Parameters, so that they travel to the actors with the weights; no gradient reaches them.
        self.mean = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.centred = centred
        scale = torch.eye(shape[0]) / (64 if centred else 255)
        self.register_buffer("scale", scale, persistent=False)

    @torch.no_grad()
    def fit(self, observation: Tensor) -> None:
        """Take the mean of `observation` [N, C, H, W], where this input is centred at all."""
        if self.centred:
            self.mean.copy_(observation.sum(0) / len(observation))

    def forward(self, observation: Tensor) -> Tensor:
        # Float32 in the order that pixels come in, in place: a vectorised pass a line. Then channels last, as the first
        # convolution wants it in each of its passes, by the fastest routine for four rows: a product.
        x = observation.to(torch.float32, copy=True)
        if self.centred:
            x.sub_(self.mean)
        with torch.autocast(x.device.type, enabled=False):
            x = x.flatten(2).transpose(1, 2) @ self.scale
        return x.unflatten(1, observation.shape[2:]).permute(0, 3, 1, 2)


class NatureTorso(nn.Module):
    """The three convolutions of Mnih et al. 2015, channels as given, (32, 64, 64) there, and a linear layer."""

    def __init__(
        self, shape: tuple[int, int, int], channels: tuple[int, int, int], hidden: int, centred: bool = False
    ) -> None:
        super().__init__()
        self.output_size = hidden
        self.pixels = Pixels(shape, centred)
        first, second, third = channels
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], first, 8, 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 4, 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, third, 3, 1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
        )
        self.linear = nn.Linear(_conv_output(self.body, shape), hidden)
        orthogonal(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, observation: Tensor) -> Tensor:
        return self.linear(self.body(self.pixels(observation))).relu()


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu())


class ResNetTorso(nn.Module):
    """The IMPALA ResNet (Espeholt et al. 2018), channels a section as given: (64, 128, 128) in V-MPO on Atari."""

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


class MLPTorso(nn.Module):
    """Two tanh layers over a flat vector."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.output_size = hidden
        self.body = nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        orthogonal(self)

    def forward(self, observation: Tensor) -> Tensor:
        return self.body(observation.flatten(1).to(self.body[0].weight.dtype))


Torso = NatureTorso | ResNetTorso | MLPTorso


def make_torso(config: NetworkConfig, shape: tuple[int, ...]) -> Torso:
    """The encoder that `config` names, for observations of `shape`."""
    if config.torso == "mlp":
        return MLPTorso(math.prod(shape), config.torso_hidden)
    if config.torso == "nature":
        return NatureTorso(shape, config.nature_channels, config.torso_hidden, config.centre_pixels)
    return ResNetTorso(shape, config.resnet_channels, config.torso_hidden, config.centre_pixels)
