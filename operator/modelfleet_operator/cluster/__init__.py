"""The Kubernetes body: worker pods, status and events through the Kubernetes API."""
