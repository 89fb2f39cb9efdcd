"""Makes the doubles importable: under importlib mode a test folder is no package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
