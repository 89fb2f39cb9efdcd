"""Puts artifacts into a registry, as the distribution specification says."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any

import httpx2

from storage_servers import Server


def push(server: Server, name: str, layers: list[tuple[bytes, dict[str, Any]]]) -> str:
    """Blobs and a manifest, as the specification says; returns the manifest's digest."""
    repository, _, tag = name.partition(":")
    with httpx2.Client(base_url=f"{server.url}/v2/{repository}") as client:

        def blob(content: bytes) -> dict[str, Any]:
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            place = httpx2.URL(client.post("/blobs/uploads/").headers["Location"])
            place = place.copy_merge_params({"digest": digest})
            client.put(place, content=content).raise_for_status()
            return {"digest": digest, "size": len(content)}

        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", **blob(b"{}")},
            "layers": [blob(content) | notes for content, notes in layers],
        }
        return put_manifest(client, tag, manifest)


def put_manifest(client: httpx2.Client, tag: str, manifest: dict[str, Any]) -> str:
    answer = client.put(
        f"/manifests/{tag}",
        content=json.dumps(manifest),
        headers={"Content-Type": manifest["mediaType"]},
    )
    return answer.raise_for_status().headers["Docker-Content-Digest"]


def titled(name: str, kind: str = "application/vnd.oci.image.layer.v1.tar") -> dict[str, Any]:
    return {"mediaType": kind, "annotations": {"org.opencontainers.image.title": name}}


def archive(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()
