"""Where botocore may ask for credentials: what answers them only inside a network has to be listed.

Its requests to STS and to single sign-on go through `BucketSender`, as those to the store do. The
node's metadata and the services that give a container its credentials it asks by a client of its
own, which knows no list.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import structlog

from .endpoints import VARIABLE, AllowedEndpoints

log = structlog.get_logger()

METADATA = "http://169.254.169.254"  # of AWS's machines: the node's role
CONTAINER = "http://169.254.170.2"  # of ECS; EKS Pod Identity names 169.254.170.23 in a variable
SENTENCE = (
    "on a cluster the node's role and EKS Pod Identity count only where the administrator lists "
    f"169.254.169.254 or 169.254.170.23 in {VARIABLE}"
)


def keep_to_the_list(session: Any, allowed: AllowedEndpoints) -> None:
    """Of a botocore session: what is not listed is not asked. Before a client is made of it."""
    if not allowed.restricts:
        return
    # Metrics of its calls, by UDP to a host that a variable names.
    session.set_config_variable("csm_enabled", False)
    resolver = session.get_component("credential_provider")
    metadata = session.get_config_variable("ec2_metadata_service_endpoint") or METADATA
    if not _is_listed(allowed, metadata):
        _never_asks(resolver.get_provider("iam-role"), metadata)
        session.set_config_variable("defaults_mode", "legacy")  # `auto` asks it for the region
    if (container := _container_url()) and not _is_listed(allowed, container):
        _never_asks(resolver.get_provider("container-role"), container)


def _container_url() -> str:
    """As botocore chooses it; empty: none is configured."""
    if "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" in os.environ:
        return CONTAINER
    return os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")


def _never_asks(provider: Any, url: str) -> None:
    # Not `resolver.remove`: a profile's `credential_source` would still find it.
    provider.load = lambda: None
    log.debug("credentials not asked for: not listed", host=_host(url)[0], variable=VARIABLE)


def _is_listed(allowed: AllowedEndpoints, url: str) -> bool:
    host, port = _host(url)
    return allowed.lists(host, port)


def _host(url: str) -> tuple[str, int]:
    """Host and port; an empty host for what is no URL."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "", 0
