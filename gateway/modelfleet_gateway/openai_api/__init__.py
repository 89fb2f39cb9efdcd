"""OpenAI's API: what clients send, what workers get, what clients see. Pure."""
