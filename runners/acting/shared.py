"""Memory that actors and their learner share."""

import errno
import os

from torch import Tensor

from runners.errors import RunError


def share(tensor: Tensor) -> Tensor:
    """Move `tensor` to memory that processes share, and return it; RunError if the system gives none."""
    try:
        return tensor.share_memory_()
    except RuntimeError as error:
        why = " ".join(str(error).split())
        mend = "make /dev/shm larger, or" if os.strerror(errno.ENOSPC) in why else ""
        if os.strerror(errno.EMFILE) in why:
            mend = "raise the limit on open files (ulimit -n), or"
        what = f"no memory of {tensor.nbytes:,} bytes for actors and learner to share: {why}"
        raise RunError(f"{what}; {mend} take --actors 0".replace(";  ", "; ")) from error
