"""The Fleet service: what gateways are told, and what they say."""
