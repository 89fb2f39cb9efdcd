"""HTTP with clients: URLs, bodies in, answers out; the listening server and its drain."""
