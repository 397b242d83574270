"""Transformer memory cores: TrXL, TrXL-I and GTrXL (arXiv 1910.06764, eqs. 1-8), whole unrolls and single steps.

| variant | attention sub-block                  | MLP sub-block                |
|---------|--------------------------------------|------------------------------|
| trxl    | y = LN(x + RMHA([m, x]))             | x' = LN(y + f(y))            |
| trxl-i  | y = x + ReLU(RMHA(LN([m, x])))       | x' = y + ReLU(f(LN(y)))      |
| gtrxl   | y = g1(x, ReLU(RMHA(LN([m, x]))))    | x' = g2(y, ReLU(f(LN(y))))   |

The memory m of a layer is its own past inputs, without gradient. A step attends to itself and to at most M earlier
steps of the same episode. That window slides with the query, in an unroll as in acting, so the place where an unroll is
cut has no effect.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from networks.attention import RelativeAttention
from networks.drop_path import DropPath
from networks.gates import make_gate

if TYPE_CHECKING:
    from networks.config import NetworkConfig

State = tuple[Tensor, ...]


class Residual(nn.Module):
    """Skip connection x + y, which a gate replaces."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class TransformerLayer(nn.Module):
    def __init__(
        self,
        d_model: int,
        heads: int,
        key_size: int,
        mlp_size: int,
        variant: str,
        gate: str,
        gate_bias: float | None,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.post_norm = variant == "trxl"
        self.attention = RelativeAttention(d_model, heads, key_size, dropout)
        self.mlp = nn.Sequential(nn.Linear(d_model, mlp_size), nn.ReLU(), nn.Linear(mlp_size, d_model))
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout, self.drop_path = nn.Dropout(dropout), DropPath(drop_path)
        gated = variant == "gtrxl"
        self.attention_gate = make_gate(gate, d_model, gate_bias) if gated else Residual()
        self.mlp_gate = make_gate(gate, d_model, gate_bias) if gated else Residual()

    def attention_input(self, x: Tensor) -> Tensor:
        """Return the input of queries, keys and values."""
        return x if self.post_norm else self.attention_norm(x)

    def combine(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the layer's output from its input `x` [B, ..., D] and the attention's output `attended`."""
        if self.post_norm:
            y = self.attention_norm(self._join(self.attention_gate, x, attended))
            return self.mlp_norm(self._join(self.mlp_gate, y, self.mlp(y)))
        y = self._join(self.attention_gate, x, attended.relu())
        return self._join(self.mlp_gate, y, self.mlp(self.mlp_norm(y)).relu())

    def _join(self, gate: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the skip connection of a sub-block with input `x` and output `y`."""
        return self.drop_path(x, gate(x, self.dropout(y)))


class TransformerCore(nn.Module):
    """Transformer with memory. Its state is `memory` [B, L, M, D], each layer's last M inputs, and `length` [B], the
    number of valid ones, which are the newest."""

    def __init__(
        self,
        d_model: int,
        layers: int,
        heads: int,
        key_size: int,
        mlp_size: int,
        memory: int,
        variant: str,
        gate: str = "gru",
        gate_bias: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_size, self.memory = d_model, memory
        self.layers = nn.ModuleList(
            TransformerLayer(d_model, heads, key_size, mlp_size, variant, gate, gate_bias, dropout, drop_path)
            for _ in range(layers)
        )

    @classmethod
    def from_config(cls, config: "NetworkConfig") -> "TransformerCore":
        """Make the core that `config` describes; `config.core` is the variant."""
        sizes = config.layers, config.heads, config.key_size, config.mlp_size, config.memory
        gate = config.gate, config.gate_bias
        return cls(config.embedding, *sizes, config.core, *gate, config.dropout, config.drop_path)

    def initial_state(self, batch: int) -> State:
        weight = self.layers[0].mlp_norm.weight
        memory = weight.new_zeros(batch, len(self.layers), self.memory, self.output_size)
        return memory, torch.zeros(batch, dtype=torch.int64, device=weight.device)

    def forward(self, x: Tensor, first: Tensor, state: State, need_state: bool = True) -> tuple[Tensor, State | None]:
        """Return [T, B, D] for `x` [T, B, D], `first` [T, B] bool, and the state after the last step."""
        memory, length = state
        mask, start = self._mask(first.transpose(0, 1), length)
        x = x.transpose(0, 1)
        kept = []
        for i, layer in enumerate(self.layers):
            context = torch.cat([memory[:, i].to(x.dtype), x], 1)
            kept.append(context[:, -self.memory :].detach())
            context = layer.attention_input(context)
            x = layer.combine(x, layer.attention(context[:, self.memory :], context, mask))
        if not need_state:
            return x.transpose(0, 1), None
        length = (self.memory + first.shape[0] - start).clamp(max=self.memory)
        return x.transpose(0, 1), (torch.stack(kept, 1), length)

    def _mask(self, first: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attention mask, [B, T, M+T], and the first key of the last query's episode, [B].

        Query i has key M + i. It may attend to that key and the M before it, but to none before the first key of its
        episode: the oldest valid memory slot, or the newest step up to i that began an episode.
        """
        steps = torch.arange(first.shape[1], device=first.device)
        begins = torch.where(first, self.memory + steps, (self.memory - length).unsqueeze(1))
        start = begins.cummax(1).values
        key = torch.arange(self.memory + first.shape[1], device=first.device)
        oldest = torch.maximum(start, steps).unsqueeze(-1)
        return (key >= oldest) & (key <= (self.memory + steps).unsqueeze(-1)), start[:, -1]

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Return the share of the memory's places that are valid, and the root mean square of their content."""
        memory, length = state
        held = torch.arange(self.memory, device=length.device) >= (self.memory - length).unsqueeze(1)
        mean_square = (memory.square().mean((1, 3)) * held).sum() / held.sum().clamp(min=1)
        return {"memory/filled": held.float().mean(), "memory/rms": mean_square.sqrt()}

    def acting(self, state: State, horizon: int) -> "TransformerActing":
        """Return a stepper from `state` on; every `horizon` steps it copies its window back to the start."""
        return TransformerActing(self, state, horizon)


class TransformerActing:
    """Stepper without gradient that computes the keys and values of the memory once, under the present weights.

    Each layer has a strip of M + horizon places. The window of M + 1 places slides along it, as a slice without a copy.
    Places that no step has written yet lie after the window.
    """

    def __init__(self, core: TransformerCore, state: State, horizon: int) -> None:
        memory, length = state
        batch, layers, m, d = memory.shape
        self.core, self.memory, self.now = core, m, m
        self.start = m - length
        self.inputs = memory.new_empty(batch, layers, m + horizon, d)
        self.inputs[:, :, :m] = memory
        self.places = torch.arange(m + horizon, device=memory.device)
        with torch.no_grad():
            self.positions = [layer.attention.positions(m) for layer in core.layers]
            self.keys, self.values = [], []
            for i, layer in enumerate(core.layers):
                for strip, made in zip(
                    (self.keys, self.values),
                    layer.attention.keys_values(layer.attention_input(memory[:, i])),
                    strict=True,
                ):
                    room = made.new_empty(batch, layer.attention.heads, m + horizon, layer.attention.key_size)
                    room[:, :, :m] = made
                    strip.append(room)

    @torch.no_grad()
    def step(self, x: Tensor, first: Tensor) -> Tensor:
        """Return [B, D] for one step `x` [B, D], `first` [B] bool."""
        if self.now == self.places.shape[0]:
            self._move_back()
        now, window = self.now, slice(self.now - self.memory, self.now + 1)
        self.start = torch.where(first, now, self.start)
        mask = self.places[window] >= self.start.unsqueeze(1)
        for i, layer in enumerate(self.core.layers):
            self.inputs[:, i, now] = x
            normed = layer.attention_input(x)
            key, value = layer.attention.keys_values(normed.unsqueeze(1))
            keys, values = self.keys[i], self.values[i]
            keys[:, :, now], values[:, :, now] = key[:, :, 0], value[:, :, 0]
            attended = layer.attention.step(normed, keys[:, :, window], values[:, :, window], self.positions[i], mask)
            x = layer.combine(x, attended)
        self.now += 1
        return x

    def state(self) -> State:
        memory = self.inputs[:, :, self.now - self.memory : self.now].clone()
        return memory, (self.now - self.start).clamp(max=self.memory)

    def _move_back(self) -> None:
        shift = self.now - self.memory
        for strip in (self.inputs, *self.keys, *self.values):
            strip[:, :, : self.memory] = strip[:, :, shift:].clone()
        self.start = (self.start - shift).clamp(min=0)
        self.now = self.memory
