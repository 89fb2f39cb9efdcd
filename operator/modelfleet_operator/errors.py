"""What can go wrong in the control plane."""


class OperatorError(Exception):
    """The root of this package's errors."""


class ManifestError(OperatorError):
    """A file or an object is not a valid ModelDeployment; one line for each thing to correct."""
