"""pi and pi_ref: a model and a frozen copy of its start, or the model without the adapter that is being trained."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from networks.language import Completions, Prompts, token_log_probs


class Policies:
    def __init__(self, model: nn.Module, temperature: float) -> None:
        self.model, self.temperature = model, temperature
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
            return token_log_probs(model, prompts, completions.tokens, completions.mask, self.temperature)

    def trained(self) -> dict[str, Tensor]:
        """The parameters that learn, by name, and buffers."""
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        return {name: value for name, value in self.model.state_dict().items() if name not in frozen}

    def get_state(self) -> dict[str, dict[str, Tensor] | None]:
        start = None if self._copy is None else dict(self._copy.state_dict())
        return {"model": self.trained(), "start": start}

    def set_state(self, state: dict[str, dict[str, Tensor] | None]) -> None:
        self.model.load_state_dict(state["model"], strict=self._copy is not None)
        if self._copy is not None:
            self._copy.load_state_dict(state["start"])
