"""A client of a gateway, for `modelfleet chat` and `models`."""
