"""A Kubernetes cluster on one Linux machine, built from its Go modules: no Docker, no registry.

`make cluster` starts it and `make cluster-down` removes every trace; docs/cluster.md says how it
works. Tests drive it through `Cluster`.
"""
