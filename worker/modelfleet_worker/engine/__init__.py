"""The engine: a step loop in its own thread that knows token ids, never text or gRPC."""
