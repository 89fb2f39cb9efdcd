"""The ways to compute a step, a folder or file each; `host` says what this machine gives them."""
