"""The gRPC contracts between the parts, and the version handshake they all make."""
