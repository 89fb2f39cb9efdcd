"""The shape of a WarmPool's status, for the CRD; `decisions/pool.py` has the values."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .api_model import ApiModel
from .status import CONDITIONS, ConditionSchema

Count = Annotated[int, Field(ge=0)]


class WarmPoolStatusSchema(ApiModel):
    """What was observed."""

    observed_generation: int | None = None
    """metadata.generation that this status speaks of."""
    conditions: Annotated[list[ConditionSchema], CONDITIONS] | None = None
    """Ready, Reconciling and Stalled (kstatus), each with its reason."""
    standby: Count | None = None
    """Workers that stand by and can be claimed now."""
    starting: Count | None = None
    """Workers that will stand by once they have started."""
    claimed: Count | None = None
    """Workers of deployments that came from this pool and still exist."""
    hits: Count | None = None
    """Standbys that deployments have claimed since the pool was created."""
    misses: Count | None = None
    """Workers that deployments started anew, since the pool had no standby for them then."""
    seconds_saved: Count | None = None
    """Seconds that the claims saved together: what a start of the deployment takes, as it was
    measured, less what the claimed worker took until it was ready."""
    hourly_cost: Annotated[str, Field(max_length=32)] | None = None
    """What the standbys cost an hour, by the price of their accelerator class; one that has no node
    yet costs nothing. Absent: the class has no price."""
