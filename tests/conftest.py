"""Tests run several at a time, each process on one core: with more threads they would wait for each other."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in the processes that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
