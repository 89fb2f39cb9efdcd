"""OpenAI's Responses API, translated from and to chats. Pure but for the clock."""
