"""What a certificate says of its holder: role, namespace, pod and uid (SPIFFE's form)."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

TRUST_DOMAIN = "modelfleet"
OPERATOR_NAME = "operator.modelfleet.internal"  # of every replica: any of them may lead
_PART = r"[A-Za-z0-9._-]{1,253}"
_URI = re.compile(
    rf"spiffe://{TRUST_DOMAIN}/(?P<role>[a-z]+)/ns/(?P<namespace>{_PART})"
    rf"/pod/(?P<pod>{_PART})(/(?P<uid>{_PART}))?"
)


class Role(enum.StrEnum):
    """What a process is."""

    OPERATOR = "operator"
    GATEWAY = "gateway"
    WORKER = "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Of one process. A worker's is its pod, not its deployment: a claimed standby changes it."""

    role: Role
    namespace: str
    pod: str
    uid: str = ""  # of the pod; empty: an operator, which no one addresses by its pod

    @property
    def uri(self) -> str:
        """The certificate's only URI.

        spiffe://modelfleet/worker/ns/team-a/pod/tiny-5f2c-0/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed
        """
        uid = f"/{self.uid}" if self.uid else ""
        return f"spiffe://{TRUST_DOMAIN}/{self.role}/ns/{self.namespace}/pod/{self.pod}{uid}"

    @property
    def server_name(self) -> str:
        """The certificate's only DNS name: what callers ask for, whatever address they dial."""
        if self.role is Role.OPERATOR:
            return OPERATOR_NAME
        return server_name(self.role, self.namespace, self.uid)


def server_name(role: Role, namespace: str, uid: str) -> str:
    """Without the pod's name, which may be as long as a DNS name may be; the uid stands for it."""
    return f"{uid}.{namespace}.{role}.modelfleet.internal"


def parse_identity(uri: str) -> Identity | None:
    """None: it is none of ours."""
    found = _URI.fullmatch(uri)
    if found is None or found["role"] not in set(Role):
        return None
    return Identity(
        role=Role(found["role"]),
        namespace=found["namespace"],
        pod=found["pod"],
        uid=found["uid"] or "",
    )
