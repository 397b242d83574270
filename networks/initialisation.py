"""Initialisation of weights."""

from torch import nn


def orthogonal(module: nn.Module, gain: float = 2**0.5) -> None:
    """Set orthogonal weights and zero biases in all linear and convolutional layers of `module`.

    With this `gain` a ReLU layer keeps the scale of its input. With torch's own initialisation the features of pixels
    start an order of magnitude smaller, and learning starts later.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
