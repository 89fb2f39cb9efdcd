"""`modelfleet explain`: what the decisions about one deployment see, and what they make of it."""
