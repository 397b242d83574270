"""How weights begin."""

from torch import nn


def orthogonal(module: nn.Module, gain: float = 2**0.5) -> None:
    """Orthogonal weights and zero biases in every linear map of `module`: a ReLU layer then keeps the signal's size.

    With torch's own initialisation the features of pixels start an order of magnitude smaller, and learning later.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
