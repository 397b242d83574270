"""Stochastic depth (Huang et al. 2016), or DropPath: while learning, each sample leaves out blocks at random."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Layer that skips a block for whole samples with probability `p`: its output is then its input. For the others it
    multiplies what the block changes by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the block's output from its input `before` and its whole output `after`, both [B, ...]."""
        if not self.training or not self.p:
            return after
        kept = after.new_empty(len(after), *[1] * (after.ndim - 1)).bernoulli_(1 - self.p)
        return before + (after - before) * kept / (1 - self.p)


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
    before = inputs[0] if inputs else named["hidden_states"]
    if isinstance(output, tuple):
        return block.drop_path(before, output[0]), *output[1:]
    return block.drop_path(before, output)
