"""Schedule of the learning rate and the entropy bonus."""

from runners.config import TrainingConfig


def annealed(training: TrainingConfig, progress: float) -> float:
    """Return the share of learning rate and entropy bonus that is left after `progress` in [0, 1] of the run."""
    if not training.anneal:
        return 1.0
    left = min(1.0, (1 - progress) / (1 - training.anneal_from))
    return training.anneal_to + (1 - training.anneal_to) * left
