"""Tests run several at a time, each process on one core: with more threads they would wait for each other."""

import os
import signal

from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in the processes that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
# Here, and nowhere else, calls are checked against the shapes in their signatures. These modules are imported later.
GEMPI = [f"agents.gempi.{module}" for module in ("anchors", "e_step", "filters", "kl", "m_step", "target")]
NETWORKS = [f"networks.{module}" for module in ("attention", "gates", "mingru")]
install_import_hook(["agents.returns", *GEMPI, *NETWORKS], "beartype.beartype")
