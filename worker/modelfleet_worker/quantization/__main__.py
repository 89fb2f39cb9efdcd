"""`python -m modelfleet_worker.quantization`."""

from modelfleet_worker.quantization.cli import main

if __name__ == "__main__":
    main()
