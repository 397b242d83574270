"""Configuration of a network."""

import math
from dataclasses import dataclass
from typing import Literal

from networks.cores import CORES
from networks.gates import GATES

TorsoName = Literal["auto", "nature", "resnet", "small"]


@dataclass(frozen=True)
class NetworkConfig:
    """Options of the network: torso -> + previous action and reward -> core -> policy and value heads."""

    torso: TorsoName = "auto"
    """Encoder of pictures: the Nature CNN, the IMPALA ResNet, or two small convolutions; auto chooses by their size.
    Vectors have an MLP, grids of symbols convolutions over one-hots; of several parts each has its own."""
    normalise: Literal["auto", "on", "off"] = "auto"
    """Bring vector observations to mean 0 and deviation 1 by running moments; auto: those whose bounds are absent or
    wider than [-10, 10]."""
    nature_channels: tuple[int, int, int] = (32, 64, 64)
    """Channels of the Nature CNN's three convolutions."""
    resnet_channels: tuple[int, int, int] = (16, 32, 32)
    """Channels of the ResNet's three sections (V-MPO on Atari: 64 128 128)."""
    torso_hidden: int = 256
    """Size of the torso's last layer (the Nature CNN's 512, the ResNet's 256), and of each of the MLP's two layers."""
    centre_pixels: bool = False
    """Subtract the mean picture of play by random actions from every observation."""
    core: Literal[tuple(CORES)] = "gtrxl"
    """Memory: none (feedforward), an LSTM, a GRU, layers of minGRU (a recurrence that learns in parallel over time), or
    a transformer (post-norm, identity map reordering, gated)."""
    gate: Literal[tuple(GATES)] = "gru"
    """Gate in the place of GTrXL's residual connections."""
    gate_bias: float | None = None
    """b_g at initialisation; by default the paper's: 2 for a GRU gate, which starts it near the identity, else 1."""
    embedding: int = 128
    """Width of the core: the transformer's or minGRU's model size, the LSTM's or GRU's hidden size."""
    layers: int = 2
    """Layers of a transformer or of minGRU."""
    heads: int = 4
    """Attention heads a layer."""
    key_size: int = 32
    """Size of keys, queries and values, a head."""
    mlp_size: int = 256
    """Inner size of the position-wise MLP in each layer of a transformer or of minGRU."""
    memory: int = 64
    """Previous steps a transformer layer attends to, besides the present one; the longest time that the units of an
    LSTM, GRU or minGRU keep what they hold when training begins."""
    dropout: float = 0.0
    """Probability that a unit is dropped while learning, in the torso's features, the output of each of the core's
    sub-blocks (a transformer's attention, a minGRU, an MLP, the LSTM or GRU) and the attention weights. Acting,
    evaluation and value targets use the whole network."""
    drop_path: float = 0.0
    """Probability that a transformer's sub-block is left out while learning, for an environment's whole unroll
    (DropPath, stochastic depth)."""
    head_hidden: int = 256
    """Hidden units of the policy head and of the value head."""

    @property
    def has_dropout(self) -> bool:
        """Return whether learning drops a part of the network."""
        return self.dropout > 0 or self.drop_path > 0

    def __post_init__(self) -> None:
        for name in ("torso_hidden", "embedding", "layers", "heads", "key_size", "mlp_size", "memory", "head_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must lie in [0, 1), not {getattr(self, name)}")
        if self.gate_bias is not None and not math.isfinite(self.gate_bias):
            raise ValueError(f"--gate-bias must be finite, not {self.gate_bias}")
        if self.drop_path and self.core not in ("trxl", "trxl-i", "gtrxl"):
            raise ValueError(f"--drop-path leaves out sub-blocks of a transformer, and --core {self.core} has none")
        for name in ("nature_channels", "resnet_channels"):
            if len(channels := getattr(self, name)) != 3 or min(channels) < 1:
                raise ValueError(f"--{name.replace('_', '-')} takes three positive sizes, not {channels}")
        if self.embedding % 2:
            raise ValueError(f"--embedding must be even (half of it sines, half cosines), not {self.embedding}")
