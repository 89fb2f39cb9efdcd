"""Who may ask for what, and how much of it. Pure: no network, no event loop."""
