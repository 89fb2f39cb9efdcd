"""The objects that users write and read, one file each; their CRDs; how manifests are read."""
