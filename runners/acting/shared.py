"""Memory that actors and their learner share."""

from torch import Tensor

from runners.errors import RunError


def share(tensor: Tensor) -> Tensor:
    """Move `tensor` to memory that processes share, and return it; RunError if the system has no room for it."""
    try:
        return tensor.share_memory_()
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise RunError(
            f"no {tensor.nbytes / 1e6:.1f} MB of memory for actors and learner to share: {why}; make /dev/shm larger, "
            "or take --actors 0"
        ) from error
