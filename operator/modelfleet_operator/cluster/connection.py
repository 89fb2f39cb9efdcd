"""How to reach the API server: the pod's service account, or else the kubeconfig."""

from __future__ import annotations

from pathlib import Path

import kopf
from kubernetes.aio import client, config

from ..errors import StartError


async def load_configuration(kubeconfig: Path | None) -> client.Configuration:
    """StartError when there is neither a service account nor a kubeconfig that works."""
    configuration = client.Configuration()
    try:
        if kubeconfig is not None:
            raise config.ConfigException("a kubeconfig was asked for")
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            await config.load_kube_config(
                config_file=kubeconfig and str(kubeconfig), client_configuration=configuration
            )
        except (config.ConfigException, OSError) as error:
            raise StartError(
                "expected to run in a pod with a service account, or a kubeconfig in $KUBECONFIG "
                f"or ~/.kube/config: {error}"
            ) from error
    return configuration


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
