"""What containerd, the kubelet, kube-proxy and the pod network of a node are told."""

import json
from typing import Any

from .certificates import AUTHORITY
from .layout import (
    CGROUP,
    DNS_DOMAIN,
    DNS_SERVICE_ADDRESS,
    HOST_ADDRESS,
    PAUSE_IMAGE,
    PKI,
    POD_NETWORK,
    RUN,
    Node,
)

JsonObject = dict[str, Any]


def cni(node: Node) -> str:
    """A bridge a node; the routes between the nodes do the rest."""
    bridge: JsonObject = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "hairpinMode": True,  # a pod may reach itself through its service
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": node.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(node.folder / "addresses"),
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "0.4.0", "name": "modelfleet", "plugins": plugins})


def containerd(node: Node) -> str:
    """The configuration of containerd 1.6, in its version 2."""
    folder = node.folder / "containerd"
    return f"""\
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{node.socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE no process may lower its score; every sandbox would fail.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{node.folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def kubelet(node: Node) -> JsonObject:
    """Listens on the node's address only, for clients with a certificate."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(AUTHORITY)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(PKI / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(PKI / f"{node.name}.key"),
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "podLogsDir": str(node.folder / "logs"),
        "volumePluginDir": str(node.folder / "volume-plugins"),
        "clusterDNS": [DNS_SERVICE_ADDRESS],
        "clusterDomain": DNS_DOMAIN,
        "resolvConf": str(RUN / "resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}/{node.name}",
        "failSwapOn": False,
        # cAdvisor may not find the device of the root file system (virtual machines hide it).
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,  # nothing could pull an image again
        "maxPods": 250,
        "registryPullQPS": 0,
        "serializeImagePulls": False,
    }


def kube_proxy(node: Node) -> JsonObject:
    """Services as iptables rules in the node's network namespace."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(PKI / "kube-proxy.kubeconfig")},
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "hostnameOverride": node.name,
        "bindAddress": node.address,
        "healthzBindAddress": f"{node.address}:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0},  # the limit is the machine's, not a namespace's
    }


def resolv_conf() -> str:
    """For pods that do not use the cluster's DNS: no name outside of the cluster resolves."""
    return f"nameserver {HOST_ADDRESS}\n"
