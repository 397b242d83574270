"""Multi-head attention with relative positions, as in Transformer-XL (arXiv 1901.02860, section 3.3).

With M memory steps before T current ones, key j stands M + i - j steps before query i, and
    logit(i, j) = [(q_i + u) . k_j + (q_i + v) . W_R phi(M + i - j)] / sqrt(key_size).
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def sinusoid_table(offsets: Tensor, size: int) -> Tensor:
    """Return phi(offset) for `offsets` [K]: [K, size], sines then cosines at frequencies 10000^(-2i/size)."""
    frequency = 10000 ** (-torch.arange(0, size, 2, dtype=torch.float64, device=offsets.device) / size)
    angle = offsets.double().unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], -1).float()


@lru_cache(maxsize=16)
def _descending_table(longest: int, size: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a table made while acting is also used in learning, where autograd refuses it
        return sinusoid_table(torch.arange(longest, -1, -1, device=device), size)


def relative_shift(scores: Float[Tensor, "*lead T S"]) -> Float[Tensor, "*lead T S"]:
    """Reorder scores by offset into scores by key.

    `scores` [..., T, M+T]: column c holds offset M + T - 1 - c. Output [..., T, M+T]: entry (i, j) holds offset
    M + i - j. Where j > M + i, a key after its query, the entry is meaningless and must be masked.
    """
    *lead, t, k = scores.shape
    padded = torch.cat([scores.new_zeros(*lead, t, 1), scores], -1)
    return padded.view(*lead, k + 1, t)[..., 1:, :].reshape(*lead, t, k)


class RelativeAttention(nn.Module):
    """Attention whose queries come from the current input, and whose keys and values from memory and input."""

    def __init__(self, d_model: int, heads: int, key_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.key_size, self.dropout = heads, key_size, dropout
        inner = heads * key_size
        self.query = nn.Linear(d_model, inner, bias=False)
        self.key = nn.Linear(d_model, inner, bias=False)
        self.value = nn.Linear(d_model, inner, bias=False)
        self.relative = nn.Linear(d_model, inner, bias=False)
        self.output = nn.Linear(inner, d_model, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, key_size))
        self.position_bias = nn.Parameter(torch.zeros(heads, key_size))

    def _split(self, x: Tensor) -> Tensor:
        """Split [B, S, H * key_size] into heads, [B, H, S, key_size]."""
        return x.unflatten(-1, (self.heads, self.key_size)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of `x` [B, S, D], each [B, H, S, key_size]."""
        return self._split(self.key(x)), self._split(self.value(x))

    def positions(self, longest: int) -> Tensor:
        """Return W_R phi(offset) for offsets longest, ..., 1, 0: [H, longest + 1, key_size]."""
        weight = self.relative.weight
        table = _descending_table(longest, weight.shape[1], weight.device).to(weight.dtype)
        return self.relative(table).unflatten(-1, (self.heads, self.key_size)).transpose(0, 1)

    def forward(
        self,
        query_input: Float[Tensor, "B T D"],
        memory_and_input: Float[Tensor, "B S D"],
        mask: Bool[Tensor, "B T S"],
    ) -> Float[Tensor, "B T D"]:
        """Return [B, T, D] from `query_input` [B, T, D], `memory_and_input` [B, M+T, D] and `mask` [B, T, M+T].

        `mask` is True where a query may attend to a key; every query needs at least one (itself), or it becomes NaN.
        """
        keys, values = self.keys_values(memory_and_input)
        query = self._split(self.query(query_input))
        by_offset = self.position_scores(query, self.positions(keys.shape[2] - 1))
        return self.attend(query, keys, values, relative_shift(by_offset), mask[:, None])

    def weights(
        self,
        query_input: Float[Tensor, "B T D"],
        memory_and_input: Float[Tensor, "B S D"],
        mask: Bool[Tensor, "B T S"],
    ) -> Float[Tensor, "B H T S"]:
        """Return the weights [B, H, T, M+T] by which `forward` of the same arguments mixes values; none is dropped."""
        keys, _ = self.keys_values(memory_and_input)
        query = self._split(self.query(query_input))
        by_offset = self.position_scores(query, self.positions(keys.shape[2] - 1))
        bias = relative_shift(by_offset).masked_fill(~mask[:, None], -math.inf)
        return softmax_weights(query + self.content_bias[:, None], keys, bias)

    def step(
        self,
        query_input: Float[Tensor, "B D"],
        keys: Float[Tensor, "B H S K"],
        values: Float[Tensor, "B H S K"],
        positions: Float[Tensor, "H S K"],
        mask: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "B D"]:
        """Return [B, D] for one query an environment, `query_input` [B, D], whose own key is the newest.

        `keys`, `values` [B, H, S, key_size]; `positions` [H, S, key_size] for offsets S-1 .. 0; `mask` [B, S].
        """
        query = self._split(self.query(query_input).unsqueeze(1))
        by_offset = self.position_scores(query, positions)
        return self.attend(query, keys, values, by_offset, mask[:, None, None]).squeeze(1)

    def position_scores(
        self, query: Float[Tensor, "B H T K"], positions: Float[Tensor, "H S K"]
    ) -> Float[Tensor, "B H T S"]:
        """Return (q + v) . W_R phi / sqrt(key_size) by offset, [B, H, T, S], from `query` [B, H, T, K], `positions`
        [H, S, K].

        einsum makes one product a head over all environments; a broadcast product would copy `positions` for each.
        """
        return torch.einsum("bhtk,hsk->bhts", (query + self.position_bias[:, None]) * self.key_size**-0.5, positions)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, position_scores: Tensor, mask: Tensor) -> Tensor:
        """Return softmax((q + u) . k / sqrt(key_size) + position_scores) v, heads joined and projected: [B, T, D].

        Attention weights are dropped while learning. On a GPU torch's fused kernel computes it, which on a CPU is no
        faster.
        """
        mix = scaled_dot_product_attention if query.is_cuda else plain_attention
        bias = position_scores.masked_fill(~mask, -math.inf)
        mixed = mix(query + self.content_bias[:, None], keys, values, bias, self.dropout if self.training else 0.0)
        return self.output(mixed.transpose(1, 2).flatten(2))


def plain_attention(
    query: Float[Tensor, "B H T K"],
    keys: Float[Tensor, "B H S K"],
    values: Float[Tensor, "B H S K"],
    bias: Float[Tensor, "B H T S"],
    dropout: float = 0.0,
) -> Float[Tensor, "B H T K"]:
    """Return softmax(q . k / sqrt(key_size) + bias) v, [B, H, T, key_size], as `scaled_dot_product_attention` does.

    `dropout` is the probability that a weight of the softmax is dropped.
    """
    weights = softmax_weights(query, keys, bias)
    return nn.functional.dropout(weights.to(values.dtype), dropout, training=dropout > 0) @ values


def softmax_weights(
    query: Float[Tensor, "B H T K"], keys: Float[Tensor, "B H S K"], bias: Float[Tensor, "B H T S"]
) -> Float[Tensor, "B H T S"]:
    """Return softmax(q . k / sqrt(key_size) + bias), [B, H, T, S], in float32 or the wider type of the arguments."""
    logits = (query * query.shape[-1] ** -0.5) @ keys.transpose(-1, -2) + bias
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
