"""The body on one machine: the same plan as on a cluster, worker processes instead of pods."""
