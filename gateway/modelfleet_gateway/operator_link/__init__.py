"""The Fleet stream: views come from the operator, signals go to it."""
