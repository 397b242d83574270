"""Stochastic depth (Huang et al. 2016), or DropPath: while learning, each sample leaves out blocks at random."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Layer that drops the output `x` [B, ...] of a block for whole samples with probability `p`, and multiplies the
    others by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        kept = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * kept / (1 - self.p)


def drop_blocks(model: nn.Module, p: float) -> None:
    """Give every block of a language model of transformers DropPath: with probability `p` a sample skips the block.

    Blocks are the modules that the library does not split over devices. ValueError if the model names none.
    """
    names = getattr(model, "_no_split_modules", None) or ()
    blocks = [module for module in model.modules() if type(module).__name__ in names]
    if not blocks:
        raise ValueError("--drop-path finds no blocks in this model: leave it out")
    for block in blocks:
        block.drop_path = DropPath(p).train(block.training)
        block.register_forward_hook(_skip, with_kwargs=True)


def _skip(block: nn.Module, inputs: tuple, named: dict, output: Tensor | tuple) -> Tensor | tuple:
    if not block.training:
        return output
    before = inputs[0] if inputs else named["hidden_states"]
    after = output[0] if isinstance(output, tuple) else output
    mixed = before + block.drop_path(after - before)
    return (mixed, *output[1:]) if isinstance(output, tuple) else mixed
