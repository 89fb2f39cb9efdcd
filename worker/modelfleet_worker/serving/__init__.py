"""The gRPC server around an engine: requests in, streams out, loading and draining."""
