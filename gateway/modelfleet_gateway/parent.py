"""Ends this process when its parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # <sys/prctl.h>


def die_with_parent() -> None:
    """Lets the kernel kill this process when the thread that started it ends; Linux only.

    With SIGKILL: the parent has died without a shutdown, so no client is left to drain for.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)
