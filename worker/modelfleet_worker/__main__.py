"""`python -m modelfleet_worker`."""

import os

if __name__ == "__main__":
    # gRPC's core writes lines of its own to stderr, and looks at this when it is imported; what
    # matters reaches us as exceptions.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # How long torch's threads spin for the next operation before they sleep. By default it is so
    # long that two workers on two cores, each waiting for a thread on whose core the other one
    # spins, are together three times slower than one alone (docs/performance.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

    from modelfleet_worker.cli import main

    main()
