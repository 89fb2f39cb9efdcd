"""Sets of values that together make the chart render all it can."""

from __future__ import annotations

from typing import Any

from helm import CHART

# A helm that was built without its release's flags believes that Kubernetes is at 1.20.
TEMPLATE = ("template", "modelfleet", str(CHART), "-n", "modelfleet-system", "--kube-version=1.34")

REGISTRY = "registry.example/team"  # where a set of values names none
NO_CRDS = {"crds": {"install": False}}  # they are the project's own files, tested by themselves
VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "one-namespace": {
        "scope": {"namespaces": ["team-a"]},
        "gateway": {"auth": {"required": False, "keyNamespaces": ["team-a"]}},
    },
    "air-gapped": {
        "images": {"registry": "mirror.example/models/", "pullSecrets": ["mirror"]},
        "worker": {
            "hub": {"endpoint": "http://hub.example", "offline": True},
            "hostPaths": ["/srv/models", "/srv/cache"],
            "nodeCache": "/srv/cache",
            "allowedEndpoints": ["registry.example:5000", "[fd00::7]:9000"],
        },
    },
    "everything": {
        "logLevel": "debug",
        "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "networkPolicy": {
            "enabled": True,
            "gatewayEgress": [{"ports": [{"port": 4317}]}],
            "metricsFrom": [
                {
                    "namespaceSelector": {
                        "matchLabels": {"kubernetes.io/metadata.name": "monitoring"}
                    }
                }
            ],
        },
        "worker": {
            "resources": {"requests": {"cpu": 4, "memory": "24Gi"}},
            "env": [{"name": "HTTPS_PROXY", "value": "http://$(POD_NAMESPACE).example:3128"}],
            "serviceAccounts": ["team-a/robot"],
            "secrets": ["hub-token"],
        },
        "tracing": {"endpoint": "http://otel.monitoring:4317", "sampleRatio": 0.1},
        "argocd": {"healthCheck": {"enabled": True}},
        "example": {"enabled": True},
        "tls": {"internal": {"mode": "Permissive", "certificateLifetime": 3600}},
        "batches": {"enabled": True, "storageClass": "fast", "size": "50Gi"},
        "gateway": {
            "tls": {"secret": "door"},
            "maxHeldBytes": 268435456,
            "paths": ["/v1", "/api"],
            "corsOrigins": ["https://chat.example", "http://localhost:3000"],
            "autoscaling": {"enabled": True},
            "ingress": {
                "enabled": True,
                "className": "nginx",
                "host": "llm.example",
                "tlsSecret": "llm-tls",
                "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
            },
            "httpRoute": {
                "enabled": True,
                "parentRefs": [{"name": "public", "namespace": "gateways"}],
                "hostnames": ["llm.example"],
                "annotations": {"example.com/team": "models"},
                "timeouts": {"request": "0s"},
            },
        },
    },
    "minimal": {
        "fullnameOverride": "mf",
        "networkPolicy": {"enabled": False},
        "admissionPolicy": {"enabled": False},
        "tls": {"internal": {"mode": "Disabled"}},
        "rbac": {"create": False},
        "images": {"operator": {"digest": "sha256:" + "0" * 64}, "worker": {"tag": "1.2.3"}},
        "operator": {
            "replicas": 1,
            "serviceAccount": {"create": False, "name": "mine"},
            "podDisruptionBudget": {"enabled": False},
            "topologySpread": {"topologyKeys": []},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"operator": "Exists"}],
            "priorityClassName": "system-cluster-critical",
            "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
        },
        "gateway": {"replicas": 1, "podDisruptionBudget": {"enabled": False}},
    },
}
