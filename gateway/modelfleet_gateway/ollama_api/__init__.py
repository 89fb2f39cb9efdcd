"""Ollama's API, translated from and to chats and plain completions. Pure but for the clock."""
