"""For every test, before anything is imported that looks at these: as a worker sets them."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # torch here and workers beside it share the cores
