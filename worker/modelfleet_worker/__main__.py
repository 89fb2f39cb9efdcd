"""`python -m modelfleet_worker`."""

import os

if __name__ == "__main__":
    # gRPC's core writes lines of its own to stderr, and looks at this when it is imported; what
    # matters reaches us as exceptions.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from modelfleet_worker.cli import main

    main()
