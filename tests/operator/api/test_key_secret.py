"""Secrets of API keys: what they grant, and what is wrong with them; no sentence quotes a key."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
import yaml

from modelfleet_operator.api.key_secret import (
    hash_of,
    is_key_secret,
    key_secret,
    new_key,
    read_key_secret,
)
from modelfleet_operator.api.manifests import read_manifests
from modelfleet_operator.decisions.api_keys import KeyLimits

KEY = "mf-a-secret-of-some-length"


def secret(annotations: dict[str, Any] | None = None, **texts: str) -> dict[str, Any]:
    ours = {f"modelfleet.dev/{name}": value for name, value in (annotations or {}).items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "alice",
            "namespace": "team-a",
            "labels": {"modelfleet.dev/api-key": ""},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", **ours},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "stringData": texts or {"key": KEY},
    }


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def test_a_key_and_its_hash_are_the_same():
    plain, hashed = secret(key=KEY + "\n"), secret(hash=hash_of(KEY))
    assert read_key_secret(plain) == read_key_secret(hashed)
    problems, key = read_key_secret(plain)
    assert not problems
    assert key is not None
    assert (key.id, key.name, key.hashes) == ("team-a/alice", "alice", (digest(KEY),))
    assert (key.models, key.expires, key.tenant, key.limits) == (None, 0, "", KeyLimits())
    assert key.created == 1767225600
    assert KEY not in repr(key)
    encoded = {**secret(), "stringData": {}}
    encoded["data"] = {"key": base64.b64encode(KEY.encode()).decode()}
    assert read_key_secret(encoded)[1] == key


def test_annotations_say_what_it_grants():
    problems, key = read_key_secret(
        secret(
            {
                "key-name": "Alice's laptop",
                "models": "tiny, team-a/*",
                "expires": "2027-01-31T00:00:00+01:00",
                "tenant": "team-a",
                "tags": "cost=12,web",
                "priority": "batch",
                "requests-per-minute": "60",
                "tokens-per-minute": "100000",
                "max-concurrent": "4",
                "queue-share": "0.25",
            }
        )
    )
    assert not problems
    assert key is not None
    assert (key.name, key.tenant, key.tags) == ("Alice's laptop", "team-a", ("cost=12", "web"))
    assert (key.models, key.priority) == (("tiny", "team-a/*"), "batch")
    assert key.expires == 1801350000
    assert key.limits == KeyLimits(
        requests_per_minute=60, tokens_per_minute=100000, max_concurrent=4, queue_share=0.25
    )


def test_several_keys_of_one_secret_replace_each_other():
    _, key = read_key_secret(secret(hash=f"{hash_of('old-key-of-some-length')}\n{hash_of(KEY)}"))
    assert key is not None
    assert key.hashes == (digest("old-key-of-some-length"), digest(KEY))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (secret(password=KEY), "data: expected a key in `key`, or its hash in `hash`"),
        (secret(key="short"), "data.key: expected 16 to 512 ASCII characters without spaces"),
        (secret(key="ünlikely-characters-in-a-key"), "data.key: expected 16 to 512 ASCII"),
        (secret(hash=KEY), "data.hash: expected sha256: and 64 hexadecimal digits"),
        (secret(key=" ".join(KEY + str(n) for n in range(9))), "data: expected at most 8 keys"),
        (secret({"model": "tiny"}), "modelfleet.dev/model: it says nothing of a key; did you mean"),
        (secret({"colour": "red"}), "modelfleet.dev/colour: it says nothing of a key; there are"),
        (secret({"models": ""}), "models: expected names of models"),
        (secret({"models": "te*am"}), "models: expected names of models"),
        (secret({"expires": "tomorrow"}), "expires: expected a time with its zone as RFC 3339"),
        (secret({"expires": "2027-01-31T00:00:00"}), "expires: expected a time with its zone"),
        (secret({"expires": "2027-01-31"}), "expires: expected a time with its zone"),
        (secret({"tenant": "a b"}), "tenant: expected"),
        (secret({"tags": ",".join("t" * 17)}), "tags: expected tags of letters"),
        (secret({"priority": "high"}), "priority: expected interactive or batch"),
        (secret({"requests-per-minute": "0"}), "requests-per-minute: expected a whole number"),
        (secret({"tokens-per-minute": "1e6"}), "tokens-per-minute: expected a whole number"),
        (secret({"max-concurrent": str(2**32)}), "max-concurrent: expected a whole number from 1"),
        (secret({"queue-share": "1.5"}), "queue-share: expected a share above 0 and at most 1"),
        (secret({"queue-share": "0.0"}), "queue-share: expected a share above 0 and at most 1"),
        (secret({"models": 3}), "models: expected names of models"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_granted(document: dict[str, Any], said: str):
    (problem,), key = read_key_secret(document)
    assert key is None
    assert said in problem
    assert KEY not in problem


def test_what_we_make_is_what_we_read():
    made = new_key()
    assert made.startswith("mf-")
    assert made != new_key()
    written = key_secret("team-a", "alice", [hash_of(made)], {"models": "tiny", "tenant": ""})
    assert is_key_secret(written)
    assert made not in str(written)
    problems, key = read_key_secret(yaml.safe_load(yaml.safe_dump(written)))
    assert not problems
    assert key is not None
    assert (key.hashes, key.models) == ((digest(made),), ("tiny",))


@pytest.mark.parametrize("labels", [None, {}, {"app": "x"}, "text"])
def test_another_secret_is_no_key(labels: Any):
    assert not is_key_secret({"kind": "Secret", "metadata": {"labels": labels}})
    assert not is_key_secret({"kind": "ConfigMap", "metadata": {"labels": {LABEL: ""}}})


LABEL = "modelfleet.dev/api-key"


def test_files_for_one_machine_have_them_beside_deployments(tmp_path):
    file = tmp_path / "fleet.yaml"
    deployment = {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "tiny"},
        "spec": {"model": {"source": "/models/tiny"}},
    }
    file.write_text(yaml.safe_dump_all([deployment, secret(), secret({"model": "tiny"})]))
    read = read_manifests([file])
    assert [key.id for key in read.keys] == ["team-a/alice"]
    problem = next(one for one in read.problems if "Secret" in one)
    assert "document 3: Secret team-a/alice: annotation modelfleet.dev/model" in problem
    assert read.others == ()
