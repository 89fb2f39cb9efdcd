"""How to reach the API server: the pod's service account, or else the kubeconfig."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import kopf
from kubernetes.aio import client, config

from ..errors import StartError

CONNECTIONS = 32  # requests at once; the API server's own limits come first
_PLAIN = frozenset({str, int, float, bool, type(None)})


class Client(client.ApiClient):  # type: ignore[misc]  # mypy skips the client: it is untyped to it
    """The client; it asks before each request whether it may be sent, and reports how it ended."""

    def __init__(
        self,
        configuration: client.Configuration,
        *,
        may_write: Callable[[], None],
        answered: Callable[[str, str, str], None],
    ) -> None:
        """`may_write` raises (or ends the process) before a request that changes something.

        `answered` gets each request's method, URL and the status (or the error's name).
        """
        configuration.connection_pool_maxsize = CONNECTIONS
        super().__init__(configuration)
        self._may_write = may_write
        self._answered = answered

    def sanitize_for_serialization(self, obj: Any) -> Any:
        """What is sent, as JSON's types; as the library does it, which tries ten types first."""
        kind = type(obj)
        if kind in _PLAIN:
            return obj
        if kind is dict:
            return {key: self.sanitize_for_serialization(value) for key, value in obj.items()}
        if kind is list:
            return [self.sanitize_for_serialization(value) for value in obj]
        return super().sanitize_for_serialization(obj)

    async def call_api(self, method: str, url: str, *args: Any, **options: Any) -> Any:
        """The one way that every request takes, as near to the wire as the library lets us."""
        if method != "GET":
            self._may_write()
        outcome = "cancelled"
        try:
            response = await super().call_api(method, url, *args, **options)
            outcome = str(response.status)
            return response
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            self._answered(method, url, outcome)


async def load_configuration(
    kubeconfig: Path | None, context: str | None = None
) -> client.Configuration:
    """StartError when there is neither a service account nor a kubeconfig that works."""
    configuration = client.Configuration()
    try:
        if kubeconfig is not None or context is not None:
            raise config.ConfigException("a kubeconfig was asked for")
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            await config.load_kube_config(
                config_file=kubeconfig and str(kubeconfig),
                context=context,
                client_configuration=configuration,
            )
        except (config.ConfigException, OSError) as error:
            raise StartError(
                "expected to run in a pod with a service account, or a kubeconfig in $KUBECONFIG "
                f"or ~/.kube/config: {error}"
            ) from error
    # Else each request asks a thread for ~/.netrc and another one for the environment's proxy, and
    # a netrc entry for the API server's host would make every request an error.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.proxy = configuration.proxy or proxy_of_environment(configuration.host)
    return configuration


def proxy_of_environment(url: str) -> str | None:
    """What HTTPS_PROXY, HTTP_PROXY and NO_PROXY say for this URL."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


async def connection_info(kubeconfig: Path | None) -> kopf.ConnectionInfo:
    """The same for kopf, which has a client of its own for watching."""
    configuration = await load_configuration(kubeconfig)
    header = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )
