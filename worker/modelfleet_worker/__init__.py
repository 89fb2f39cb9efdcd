"""The worker: one engine behind one gRPC service. It never talks to Kubernetes."""
