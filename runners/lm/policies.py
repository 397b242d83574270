"""pi and pi_ref: a model and a frozen copy of its start, or the model without the adapter that is being trained."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from networks.language import Completions, Prompts, token_log_probs


class Policies:
    """`micro_batch`: samples that pass through pi_ref at a time."""

    def __init__(self, model: nn.Module, temperature: float, micro_batch: int) -> None:
        self.model, self.temperature, self.micro_batch = model, temperature, micro_batch
        adapted = hasattr(model, "disable_adapter")
        self._copy = None if adapted else copy.deepcopy(model).eval().requires_grad_(False)

    @contextlib.contextmanager
    def start(self) -> Iterator[nn.Module]:
        """The model as it was before the first step; meanwhile not to be trained."""
        if self._copy is not None:
            yield self._copy
        else:
            with self.model.disable_adapter():
                yield self.model

    @torch.no_grad()
    def reference(self, prompts: Prompts, completions: Completions) -> Tensor:
        """log pi_ref of each token [N, C], without dropout."""
        with self.start() as model:
            model.eval()
            every = torch.arange(len(completions.tokens), device=completions.tokens.device).split(self.micro_batch)
            answers = ((prompts.of(some), completions.tokens[some], completions.mask[some]) for some in every)
            return torch.cat([token_log_probs(model, *answer, self.temperature) for answer in answers])

    def trained(self) -> dict[str, Tensor]:
        """The parameters that learn, by name, and buffers."""
        frozen = {id(p) for p in self.model.parameters() if not p.requires_grad}  # tied ones have several names
        state = self.model.state_dict(keep_vars=True)
        return {name: value.detach() for name, value in state.items() if id(value) not in frozen}

    def get_state(self) -> dict[str, dict[str, Tensor] | None]:
        start = None if self._copy is None else dict(self._copy.state_dict())
        return {"model": self.trained(), "start": start}

    def set_state(self, state: dict[str, dict[str, Tensor] | None]) -> None:
        self.model.load_state_dict(state["model"], strict=self._copy is not None)
        if self._copy is not None:
            self._copy.load_state_dict(state["start"])
