"""Methods of TRL and of this project that are compared, and the release of TRL."""

from dataclasses import dataclass
from importlib.metadata import version

TASKS = ("sort", "sort-weak", "walks")


@dataclass(frozen=True)
class Method:
    """Row of the table: a method, and how large and how many its gradient steps on a batch are."""

    library: str
    method: str
    learning_rate: float
    updates: int = 1

    @property
    def name(self) -> str:
        """Name of the method's folder."""
        return f"{self.library}-{self.method}-{self.updates}x{self.learning_rate:g}".lower()

    @property
    def offline(self) -> bool:
        """Return whether it takes pairs that were drawn beforehand, and not prompts."""
        return self.method == "dpo"


METHODS = (
    Method("TRL", "grpo", 3e-4),
    Method("TRL", "grpo", 1e-4, updates=4),
    Method("TRL", "rloo", 1e-4),
    Method("GEMPI", "vmpo", 3e-4),
    Method("GEMPI", "vmpo", 1e-4, updates=4),
    Method("GEMPI", "gempi", 1e-4, updates=4),
    *(Method(library, "dpo", rate) for rate in (1e-5, 3e-5, 1e-4) for library in ("TRL", "GEMPI")),
)
CHOICES = {"gempi": "--trust-region none"}
"""Flags of a method: V-MPO without its trust region."""
YARDSTICK = METHODS[1]
"""Method that the cost of every other is divided by."""


PACKAGES = ("trl==1.16.0", f"transformers=={version('transformers')}")
"""TRL's packages, with the transformers of this project, so that both sides run the same model code."""
