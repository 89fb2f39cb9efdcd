"""The step on torch's operations, for any processor and type; the reference of compiled steps."""

from typing import Final

# Tokens whose keys and values are copied together; more for a longer one. Here, where it is known
# without torch: what a worker may take depends on it.
MOST_GATHERED: Final = 2**15
