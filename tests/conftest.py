"""For every test: gRPC's core tells of each closed connection unless it is asked not to."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
