"""The sets of instructions of this machine."""

from __future__ import annotations

import platform

from modelfleet_worker.devices.native import library
from modelfleet_worker.devices.native.instruction_sets import SETS, candidates

# From the fastest.
HERE = [s.name for s in candidates(platform.machine(), library.processor_features())]
_ARITHMETIC = {s.name: s.arithmetic for s in SETS}
# The slowest set of each arithmetic: the others give its bits (test_instruction_sets.py).
ONE_OF_EACH_ARITHMETIC = list({_ARITHMETIC[name]: name for name in HERE}.values())
FMA = [name for name in HERE if _ARITHMETIC[name] == "fma"]
