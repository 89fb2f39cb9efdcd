"""What can go wrong in the operator, in one tree."""

from __future__ import annotations


class ModelfleetError(Exception):
    """Anything the operator reports to a person in one message: what, where, what to do."""


class ManifestError(ModelfleetError):
    """A manifest that its user must correct; the message names the file and the field."""


class PassingError(ModelfleetError):
    """Something outside did not work this time: the same may succeed when tried again."""


class StartError(ModelfleetError):
    """A process cannot start as it was asked to: a port in use, a state directory taken, ..."""


class RejectedError(ModelfleetError):
    """The Kubernetes API refused what we asked for: a person must change something first."""


class LeadershipLostError(ModelfleetError):
    """This replica could not renew its Lease in time: another one may lead, so it must end."""


class WatchLostError(ModelfleetError):
    """The watches do not see what the API server has: only a new start helps."""


class SnapshotError(ModelfleetError):
    """A file or an answer that should be a snapshot of a deployment, and is not."""


class ExplainError(ModelfleetError):
    """There is nothing to explain: no such deployment, or no operator that could say."""


class EndpointError(ModelfleetError):
    """A gateway that cannot be reached, or that refuses what was asked; in its own words."""


class LogsError(ModelfleetError):
    """There are no logs to show: no such deployment, or no cluster that could give them."""


class TraceError(ModelfleetError):
    """A trace that cannot be simulated; the message names the file and the line."""


class ScenarioError(ModelfleetError):
    """What a simulation is told of cold starts, nodes or calibrations does not fit."""


class ApiKeyError(ModelfleetError):
    """An API key that cannot be made, listed, changed or revoked as it was asked."""
