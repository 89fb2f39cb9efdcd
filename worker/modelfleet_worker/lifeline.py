"""Ties this process's life to its parent's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """From now on the kernel kills this process when its parent ends. Linux only; else nothing."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    # SIGKILL: a parent that ended without stopping us cannot wait for a drain, and a stopped
    # process would never see another signal.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)
