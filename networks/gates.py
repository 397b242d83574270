"""The gating layers of GTrXL (arXiv 1910.06764, eqs. 15-26): g(x, y) with x the skip stream and y a sub-block's output.

All map [..., D] and [..., D] to [..., D]; no two gates of a network share parameters. s is the sigmoid. `openness` is
the factor in [0, 1] on what the sub-block brings in; the input gate, which lets all of y in, has none.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GRUGate(nn.Module):
    """Gate g = (1 - z) * x + z * h, r = s(W_r y + U_r x), z = s(W_z y + U_z x - b), h = tanh(W_g y + U_g (r * x)).

    W_r, W_z, W_g are one matrix, and so are U_r, U_z.
    """

    def __init__(self, size: int, bias: float = 2.0) -> None:
        super().__init__()
        self.from_y = nn.Linear(size, 3 * size, bias=False)
        self.from_x = nn.Linear(size, 2 * size, bias=False)
        self.candidate = nn.Linear(size, size, bias=False)
        self.bias = nn.Parameter(torch.full((size,), float(bias)))

    def forward(self, x: Float[Tensor, "*lead D"], y: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        y_r, y_z, y_h = self.from_y(y).chunk(3, -1)
        x_r, x_z = self.from_x(x).chunk(2, -1)
        r = torch.sigmoid(y_r + x_r)
        z = torch.sigmoid(y_z + x_z - self.bias)
        h = torch.tanh(y_h + self.candidate(r * x))
        return torch.lerp(x, h, z)

    def openness(self, x: Float[Tensor, "*lead D"], y: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Return z."""
        return torch.sigmoid(self.from_y(y).chunk(3, -1)[1] + self.from_x(x).chunk(2, -1)[1] - self.bias)


class InputGate(nn.Module):
    """Gate g = s(W x) * x + y; it has no bias, `bias` is ignored."""

    def __init__(self, size: int, bias: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Linear(size, size, bias=False)

    def forward(self, x: Float[Tensor, "*lead D"], y: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return torch.sigmoid(self.weight(x)) * x + y


class OutputGate(nn.Module):
    """Gate g = x + s(W x - b) * y."""

    def __init__(self, size: int, bias: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Linear(size, size, bias=False)
        self.bias = nn.Parameter(torch.full((size,), float(bias)))

    def forward(self, x: Float[Tensor, "*lead D"], y: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return x + self.openness(x, y) * y

    def openness(self, x: Float[Tensor, "*lead D"], y: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return torch.sigmoid(self.weight(x) - self.bias)


class HighwayGate(nn.Module):
    """Gate g = s(W x + b) * x + (1 - s(W x + b)) * y."""

    def __init__(self, size: int, bias: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Linear(size, size, bias=False)
        self.bias = nn.Parameter(torch.full((size,), float(bias)))

    def forward(self, x: Float[Tensor, "*lead D"], y: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return torch.lerp(y, x, torch.sigmoid(self.weight(x) + self.bias))

    def openness(self, x: Float[Tensor, "*lead D"], y: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return torch.sigmoid(-self.weight(x) - self.bias)


class SigTanhGate(nn.Module):
    """Gate g = x + s(W y - b) * tanh(U y)."""

    def __init__(self, size: int, bias: float = 1.0) -> None:
        super().__init__()
        self.gate = nn.Linear(size, size, bias=False)
        self.candidate = nn.Linear(size, size, bias=False)
        self.bias = nn.Parameter(torch.full((size,), float(bias)))

    def forward(self, x: Float[Tensor, "*lead D"], y: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return x + self.openness(x, y) * torch.tanh(self.candidate(y))

    def openness(self, x: Float[Tensor, "*lead D"], y: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        return torch.sigmoid(self.gate(y) - self.bias)


GATES = {"gru": GRUGate, "input": InputGate, "output": OutputGate, "highway": HighwayGate, "sigtanh": SigTanhGate}


def make_gate(name: str, size: int, bias: float | None = None) -> nn.Module:
    """Make a gate over vectors of `size`, whose bias, if it has one, starts at `bias`, by default at the paper's."""
    return GATES[name](size) if bias is None else GATES[name](size, bias)
