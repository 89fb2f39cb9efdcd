"""The one door for clients: OpenAI API, queue, routing, failover, metering."""
