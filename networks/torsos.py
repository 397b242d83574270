"""Observation encoders: [N, *observation] -> [N, output_size].

Pixels are uint8 [N, C, 84, 84] and become [0, 1] here, on the device that computes. Convolutions run channels-last.
"""

import torch
from torch import Tensor, nn

from networks.initialisation import orthogonal


def _unit_pixels(observation: Tensor, like: Tensor) -> Tensor:
    device = observation.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
    return observation.to(dtype, memory_format=torch.channels_last) / 255


def _conv_output(body: nn.Module, shape: tuple[int, ...]) -> int:
    with torch.no_grad():
        return body(torch.zeros(1, *shape)).numel()


class NatureTorso(nn.Module):
    """The three convolutions of Mnih et al. 2015 and a linear layer."""

    def __init__(self, shape: tuple[int, int, int], hidden: int) -> None:
        super().__init__()
        self.output_size = hidden
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.linear = nn.Linear(_conv_output(self.body, shape), hidden)
        orthogonal(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, observation: Tensor) -> Tensor:
        return self.linear(self.body(_unit_pixels(observation, self.linear.weight))).relu()


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu())


class ResNetTorso(nn.Module):
    """The IMPALA ResNet (Espeholt et al. 2018), channels a section as given: (64, 128, 128) in V-MPO on Atari."""

    def __init__(self, shape: tuple[int, int, int], channels: tuple[int, ...], hidden: int) -> None:
        super().__init__()
        self.output_size = hidden
        sections: list[nn.Module] = []
        for before, after in zip((shape[0], *channels), channels, strict=False):
            sections += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            sections += [ResidualBlock(after), ResidualBlock(after)]
        self.body = nn.Sequential(*sections, nn.ReLU(), nn.Flatten())
        self.linear = nn.Linear(_conv_output(self.body, shape), hidden)
        self.to(memory_format=torch.channels_last)

    def forward(self, observation: Tensor) -> Tensor:
        return self.linear(self.body(_unit_pixels(observation, self.linear.weight))).relu()


class MLPTorso(nn.Module):
    """Two tanh layers over a flat vector."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.output_size = hidden
        self.body = nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        orthogonal(self)

    def forward(self, observation: Tensor) -> Tensor:
        return self.body(observation.flatten(1).to(self.body[0].weight.dtype))
