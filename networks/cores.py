"""Memory cores behind one interface, state in and state out.

    from_config(config) -> core                       for a NetworkConfig; its input is `config.embedding` wide
    initial_state(batch) -> state                     a tuple of tensors, the batch their first dimension
    forward(x [T, B, D], first [T, B], state)         -> y [T, B, output_size], state; None with `need_state` False
    acting(state, horizon) -> stepper                 .step(x [B, D], first [B]) -> y [B, output_size]; .state()
    metrics(state) -> dict                            scalars to log

`first[t, b]` is True where step t begins a new episode of environment b: nothing from before reaches it.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from networks.mingru import MinGRULayer
from networks.transformer import State, TransformerActing, TransformerCore

if TYPE_CHECKING:
    from networks.config import NetworkConfig


class ForwardActing:
    """Stepper that runs unrolls of length one, for cores without keys and values to cache."""

    def __init__(self, core: nn.Module, state: State) -> None:
        self.core, self._state = core, state

    @torch.no_grad()
    def step(self, x: Tensor, first: Tensor) -> Tensor:
        y, self._state = self.core(x.unsqueeze(0), first.unsqueeze(0), self._state)
        return y.squeeze(0)

    def state(self) -> State:
        return self._state


class FeedforwardCore(nn.Module):
    """Core without memory, whose output is its input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.output_size = size

    @classmethod
    def from_config(cls, config: "NetworkConfig") -> Self:
        return cls(config.embedding)

    def initial_state(self, batch: int) -> State:
        return ()

    def forward(self, x: Tensor, first: Tensor, state: State, need_state: bool = True) -> tuple[Tensor, State | None]:
        return x, state

    def metrics(self, state: State) -> dict[str, Tensor]:
        return {}

    def acting(self, state: State, horizon: int) -> ForwardActing:
        return ForwardActing(self, state)


class RecurrentCore(nn.Module, ABC):
    """One recurrent layer of torch, which a subclass makes and runs. The state is a tensor [B, H] for each of `names`.

    An unroll is cut into segments, one for each episode in it, which run side by side as a batch of the fused kernel,
    all padded to the longest: this computes steps that are not used, in far fewer calls.

    At initialisation each unit keeps its content for 1 to `span` - 1 steps, drawn uniformly (Tallec and Ollivier 2018,
    eq. 16): the bias of the LSTM's forget gate or of the GRU's update gate is set so. With a forget bias of 1 all units
    lose a quarter in each step, and 1e-4 of a cue is left after 30 steps.
    """

    names: tuple[str, ...]

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def from_config(cls, config: "NetworkConfig") -> Self:
        return cls(config.embedding, config.embedding, config.dropout, config.memory)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but leave the recurrent layer, which has no dropout, in training mode: cuDNN requires that for
        a backward pass."""
        super().train(mode)
        for layer in self.children():
            layer.train(mode or isinstance(layer, nn.RNNBase))
        return self

    @abstractmethod
    def run(self, x: Tensor | PackedSequence, state: State) -> tuple[Tensor | PackedSequence, State]:
        """Return the layer's output over `x` [T, B, D] and its last state; states are [1, B, H] each."""

    def initial_state(self, batch: int) -> State:
        weight = next(self.parameters())
        return tuple(weight.new_zeros(batch, self.output_size) for _ in self.names)

    def forward(self, x: Tensor, first: Tensor, state: State, need_state: bool = True) -> tuple[Tensor, State | None]:
        """Return [T, B, H] for `x` [T, B, D], `first` [T, B] bool, and the state after the last step, detached."""
        steps, batch = first.shape
        if steps == 1:
            y, end = self.run(x, tuple(s.masked_fill(first[0].unsqueeze(1), 0).unsqueeze(0) for s in state))
            return self.dropout(y), tuple(s.detach().squeeze(0) for s in end)

        # Flattened by environment, each segment is contiguous, with a `start` and a `length` [S].
        begins = first.T.clone()
        begins[:, 0] = True
        begins = begins.flatten()
        start = begins.nonzero().squeeze(1)
        length = start.diff(append=start.new_tensor([steps * batch]))
        longest = int(length.max())
        carried = (start % steps == 0) & ~first.T.flatten()[start]
        begin = tuple(torch.where(carried.unsqueeze(1), s[start // steps], 0).unsqueeze(0) for s in state)
        places = start + torch.arange(longest, device=x.device).unsqueeze(1)  # past a segment's end not used
        columns = x.transpose(0, 1).flatten(0, 1)[places.clamp(max=steps * batch - 1)]
        y, end = self.run(columns, begin)

        segment = begins.cumsum(0) - 1
        y = y[torch.arange(steps * batch, device=x.device) - start[segment], segment]
        y = self.dropout(y.unflatten(0, (batch, steps)).transpose(0, 1))
        if not need_state:
            return y, None
        return y, self._ends(columns, begin, end, length, segment[steps - 1 :: steps])

    @torch.no_grad()
    def _ends(self, columns: Tensor, begin: State, end: State, length: Tensor, last: Tensor) -> State:
        """Return the state after segments `last` [B]: of the longest that in `end` [1, S, H], of others by a rerun."""
        end = tuple(s.detach().squeeze(0)[last] for s in end)
        short = (length[last] < len(columns)).nonzero().squeeze(1)
        if len(short):
            which = last[short]
            packed = pack_padded_sequence(columns[:, which], length[which].cpu(), enforce_sorted=False)
            _, anew = self.run(packed, tuple(s[:, which] for s in begin))
            end = tuple(s.index_copy(0, short, n.squeeze(0)) for s, n in zip(end, anew, strict=True))
        return end

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Return the root mean square of each part of the state."""
        return {f"memory/{name}_rms": s.square().mean().sqrt() for name, s in zip(self.names, state, strict=True)}

    def acting(self, state: State, horizon: int) -> ForwardActing:
        return ForwardActing(self, state)


class LSTMCore(RecurrentCore):
    """One LSTM layer, whose state is hidden `h` and cell `c`."""

    names = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int, dropout: float = 0.0, span: int = 64) -> None:
        super().__init__(hidden_size, dropout)
        self.lstm = nn.LSTM(input_size, hidden_size)
        with torch.no_grad():  # torch's rows: input, forget, cell, output
            into, forget, _, _ = self.lstm.bias_ih_l0.split(hidden_size)
            forget.uniform_(1, max(2, span - 1)).log_()
            into.copy_(-forget)
            self.lstm.bias_hh_l0[: 2 * hidden_size] = 0

    def run(self, x: Tensor | PackedSequence, state: State) -> tuple[Tensor | PackedSequence, State]:
        return self.lstm(x, state)


class GRUCore(RecurrentCore):
    """One GRU layer, whose state is hidden `h`; a step keeps the share z of it, the update gate, and renews 1 - z."""

    names = ("h",)

    def __init__(self, input_size: int, hidden_size: int, dropout: float = 0.0, span: int = 64) -> None:
        super().__init__(hidden_size, dropout)
        self.gru = nn.GRU(input_size, hidden_size)
        with torch.no_grad():  # torch's rows: reset, update, candidate
            update = slice(hidden_size, 2 * hidden_size)
            self.gru.bias_ih_l0[update].uniform_(1, max(2, span - 1)).log_()
            self.gru.bias_hh_l0[update] = 0

    def run(self, x: Tensor | PackedSequence, state: State) -> tuple[Tensor | PackedSequence, State]:
        y, h = self.gru(x, *state)
        return y, (h,)


class MinGRUCore(nn.Module):
    """Layers of minGRU and MLP. The state is `h` [B, L, D], each layer's hidden state."""

    def __init__(self, d_model: int, layers: int, mlp_size: int, dropout: float = 0.0, span: int = 64) -> None:
        super().__init__()
        self.output_size = d_model
        self.layers = nn.ModuleList(MinGRULayer(d_model, mlp_size, dropout, span) for _ in range(layers))

    @classmethod
    def from_config(cls, config: "NetworkConfig") -> Self:
        return cls(config.embedding, config.layers, config.mlp_size, config.dropout, config.memory)

    def initial_state(self, batch: int) -> State:
        return (self.layers[0].norm.weight.new_zeros(batch, len(self.layers), self.output_size),)

    def forward(self, x: Tensor, first: Tensor, state: State, need_state: bool = True) -> tuple[Tensor, State | None]:
        """Return [T, B, D] for `x` [T, B, D], `first` [T, B] bool, and the state after the last step, detached."""
        ends = []
        for layer, h in zip(self.layers, state[0].unbind(1), strict=True):
            x, end = layer(x, first, h)
            ends.append(end.detach())
        return x, (torch.stack(ends, 1),) if need_state else None

    def metrics(self, state: State) -> dict[str, Tensor]:
        """Return the root mean square of the state."""
        return {"memory/h_rms": state[0].square().mean().sqrt()}

    def acting(self, state: State, horizon: int) -> ForwardActing:
        return ForwardActing(self, state)


Core = FeedforwardCore | RecurrentCore | MinGRUCore | TransformerCore
Stepper = ForwardActing | TransformerActing
CORES: dict[str, type[Core]] = {
    "feedforward": FeedforwardCore,
    "lstm": LSTMCore,
    "gru": GRUCore,
    "mingru": MinGRUCore,
    "trxl": TransformerCore,
    "trxl-i": TransformerCore,
    "gtrxl": TransformerCore,
}


def make_core(config: "NetworkConfig") -> Core:
    """Make the core that `config` names; its input is `config.embedding` wide."""
    return CORES[config.core].from_config(config)
