"""The policies pi and pi_ref: a model and a frozen copy of its start, or the model with and without its adapter."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from networks.language import Completions, Prompts, token_log_probs
from runners.lm.shards import gathered, shard, spread, whole


class Policies:
    """The model that is trained and, if `needs_start`, the model of the start, as a copy or without the adapter.

    `micro_batch` samples pass through pi_ref at a time.
    """

    def __init__(self, model: nn.Module, temperature: float, micro_batch: int, needs_start: bool) -> None:
        self.model, self.temperature, self.micro_batch = model, temperature, micro_batch
        self._adapted = hasattr(model, "disable_adapter")
        copied = needs_start and not self._adapted
        self._copy = copy.deepcopy(model).eval().requires_grad_(False) if copied else None

    def shard(self, mesh: DeviceMesh) -> None:
        """Spread both over the ranks of `mesh`; then drawing and pi_ref need them `whole`."""
        for model in self._models():
            shard(model, mesh)

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """Return a context for drawing and for pi_ref, in which each rank has both models; all ranks enter together."""
        return whole(*self._models())

    def _models(self) -> list[nn.Module]:
        return [self.model] if self._copy is None else [self.model, self._copy]

    @contextlib.contextmanager
    def start(self) -> Iterator[nn.Module]:
        """Yield the model as it was before the first step; the model must not be trained meanwhile."""
        if self._adapted:
            with self.model.disable_adapter():
                yield self.model
        else:
            yield self._copy

    @torch.no_grad()
    def reference(self, prompts: Prompts, completions: Completions) -> Tensor:
        """Return log pi_ref of each token, [N, C], without dropout."""
        with self.start() as model:
            model.eval()
            every = torch.arange(len(completions.tokens), device=completions.tokens.device).split(self.micro_batch)
            answers = ((prompts.select(some), completions.tokens[some], completions.mask[some]) for some in every)
            return torch.cat([token_log_probs(model, *answer, self.temperature) for answer in answers])

    def trained(self) -> dict[str, Tensor]:
        """Return the trained parameters and the buffers by name; of a sharded model this rank's parts."""
        frozen = {id(p) for p in self.model.parameters() if not p.requires_grad}  # tied ones have several names
        state = self.model.state_dict(keep_vars=True)
        return {name: value.detach() for name, value in state.items() if id(value) not in frozen}

    def get_state(self) -> dict[str, dict[str, Tensor] | None]:
        start = None if self._copy is None else dict(self._copy.state_dict())
        return gathered({"model": self.trained(), "start": start})

    def set_state(self, state: dict[str, dict[str, Tensor] | None]) -> None:
        for model, values in zip(self._models(), state.values(), strict=False):
            own = model.state_dict()
            known = {name: spread(value, own[name]) if name in own else value for name, value in values.items()}
            model.load_state_dict(known, strict=not self._adapted)
