"""Anthropic's Messages API, translated from and to chats. Pure."""
