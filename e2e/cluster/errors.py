"""What can go wrong with the cluster; every message says what to do."""


class ClusterError(Exception):
    """Base of everything this package raises on purpose."""


class BuildError(ClusterError):
    """A component could not be built from its Go module."""


class PackageError(ClusterError):
    """Debian's packages are missing and could not be installed."""


class CommandError(ClusterError):
    """A command ended with an error; the message holds its last lines of output."""


class NotReadyError(ClusterError):
    """Something did not become ready in time; the message names its log."""


class NotRunningError(ClusterError):
    """The cluster, or a part of it, is not running."""
