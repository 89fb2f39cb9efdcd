"""How kopf is set up: it watches and indexes for us, and does nothing else."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import kopf

from .pods import DEPLOYMENT


def tune(settings: kopf.OperatorSettings) -> None:
    """Our own events are posted where things happen; kopf adds none, and waits for no peer."""
    # No right to list namespaces and CRDs is needed. And kopf, which asks anew what is served when
    # a CRD changes, would end our watches for ever if discovery left our CRDs out for a moment.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _ForEver()
    # Not every pod and every history of the cluster.
    settings.watching.label_selectors["v1", "pods"] = DEPLOYMENT
    settings.watching.label_selectors["apps/v1", "controllerrevisions"] = DEPLOYMENT
    settings.watching.chunk_size = 500
    settings.persistence.diffbase_storage = _NoDiffs()
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # it has a line for each event


class _ForEver:
    """Seconds between attempts: an API server that is away does not end the operator."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.2, 0.5), itertools.repeat(1.0))


class _NoDiffs(kopf.DiffBaseStorage):
    """For change handlers, which we have none of, kopf copies every object three times."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None
