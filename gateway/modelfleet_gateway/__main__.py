"""`python -m modelfleet_gateway` starts a gateway."""

from .cli import main

main()
