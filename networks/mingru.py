"""minGRU (arXiv 2410.01201, section 3.1): a recurrent layer whose unroll is one parallel scan over time.

    h_t = (1 - z_t) * h_{t-1} + z_t * c_t,    z_t = s(W_z n_t + b_z),    c_t = W_h n_t + b_h,    n = LN(x)

Neither the gate z nor the candidate c depends on h, so the steps compose without being run one after the other. This is
the paper's plain form: its form in log space also makes h positive, and divides by products that are 0 at a reset.
A sub-block has a residual connection and layer norm on its input, as TrXL-I has, but no ReLU on its output.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def scan(
    keep: Float[Tensor, "T B D"], gain: Float[Tensor, "T B D"], start: Float[Tensor, "B D"]
) -> Float[Tensor, "T B D"]:
    """Return h_0, ..., h_{T-1} of h_t = keep_t * h_{t-1} + gain_t, with `start` before step 0.

    Doubling (Hillis and Steele 1986): after k rounds entry t is the composition of steps t - 2^k + 1 to t. Nothing is
    divided, so a `keep` of 0 is exact: nothing from before that step remains, and no gradient reaches it.
    """
    reach = 1
    while reach < len(keep):
        gain = torch.cat([gain[:reach], torch.addcmul(gain[reach:], keep[reach:], gain[:-reach])])
        keep = torch.cat([keep[:reach], keep[reach:] * keep[:-reach]])
        reach *= 2
    return torch.addcmul(gain, keep, start)


class MinGRULayer(nn.Module):
    """Sub-block of a minGRU, y = x + h, then one of an MLP, x' = y + f(LN(y)).

    At initialisation each unit keeps its content for 1 to `span` - 1 steps, drawn uniformly, as RecurrentCore does.
    """

    def __init__(self, d_model: int, mlp_size: int, dropout: float, span: int) -> None:
        super().__init__()
        self.gate, self.candidate = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, mlp_size), nn.ReLU(), nn.Linear(mlp_size, d_model))
        self.norm, self.mlp_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            self.gate.bias.uniform_(1, max(2, span - 1)).log_().neg_()

    def forward(
        self, x: Float[Tensor, "T B D"], first: Bool[Tensor, "T B"], h: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "T B D"], Float[Tensor, "B D"]]:
        """Return the output over an unroll, and h after its last step from `h` before the first."""
        normed = self.norm(x)
        z = self.gate(normed).sigmoid()
        keep = (1 - z).masked_fill(first.unsqueeze(-1), 0)
        states = scan(keep, z * self.candidate(normed), h)
        y = x + self.dropout(states)
        return y + self.dropout(self.mlp(self.mlp_norm(y))), states[-1]
