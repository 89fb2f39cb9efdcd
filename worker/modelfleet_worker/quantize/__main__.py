"""`python -m modelfleet_worker.quantize`."""

from modelfleet_worker.quantize.cli import main

if __name__ == "__main__":
    main()
