"""Ends this process with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # <sys/prctl.h>


def die_with_parent() -> None:
    """Lets the kernel kill this process when the thread that started it ends; Linux only.

    With SIGKILL: a parent that ended without stopping us cannot wait for a drain, and a stopped
    process would never see another signal.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)
