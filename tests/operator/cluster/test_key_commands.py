"""`modelfleet key` on a Kubernetes API: a key is made, listed, replaced and revoked."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from kube_cluster import ApiServer
from modelfleet_operator.api.key_secret import hash_of, read_key_secret
from modelfleet_operator.commands.key import app
from modelfleet_operator.errors import ApiKeyError

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def run(kubeconfig: Path) -> Run:
    async def invoke(*arguments: str) -> Result:
        # A thread: the command has a loop of its own.
        given = [*arguments, "--kubeconfig", str(kubeconfig), "-n", "keys"]
        return await asyncio.to_thread(CliRunner().invoke, app, given)

    return invoke


async def listed(run: Run) -> list[dict[str, Any]]:
    return json.loads((await run("list", "-o", "json")).stdout)


async def test_a_key_is_printed_once_and_the_cluster_has_its_hash(api: ApiServer, run: Run):
    made = await run("create", "alice", "--models", "tiny", "--expires", "90d", "--tags", "web")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert key.startswith("mf-")
    (posted,) = api.asked("POST", "secrets")
    assert key not in posted.body.decode()
    assert json.loads(posted.body)["stringData"] == {"hash": hash_of(key)}
    problems, granted = read_key_secret(json.loads(posted.body))
    assert not problems
    assert granted is not None
    assert (granted.models, granted.tags, granted.expires > 0) == (("tiny",), ("web",), True)


async def test_two_keys_are_valid_while_one_replaces_the_other(api: ApiServer, run: Run):
    first = (await run("create", "alice")).stdout.strip()
    again = await run("create", "alice")
    assert isinstance(again.exception, ApiKeyError)
    assert "already" in str(again.exception)
    second = (await run("create", "alice", "--add")).stdout.strip()
    assert [row["keys"] for row in await listed(run)] == [2]
    changed = json.loads(api.asked("PATCH", "secrets")[0].body)["data"]
    hashes = base64.b64decode(changed["hash"]).decode().split()
    assert hashes == [hash_of(first), hash_of(second)]
    assert (
        "1 older keys of keys/alice are revoked" in (await run("revoke", "alice", "--older")).stdout
    )
    assert [row["keys"] for row in await listed(run)] == [1]


async def test_a_revoked_key_is_gone_and_no_other_secret_is_touched(api: ApiServer, run: Run):
    await run("create", "alice")
    assert "keys/alice is revoked" in (await run("revoke", "alice")).stdout
    assert await listed(run) == []
    gone = await run("revoke", "alice")
    assert "there is no API key keys/alice" in str(gone.exception)


async def test_the_list_says_what_is_granted_and_what_is_not_in_force(api: ApiServer, run: Run):
    await run("create", "alice", "--requests-per-minute", "60", "--models", "a", "--models", "b")
    await run("create", "old", "--expires", "2020-01-01T00:00:00Z")
    table = (await run("list")).stdout.splitlines()
    assert table[0].split() == [
        *("NAME", "KEYS", "MODELS", "EXPIRES", "TENANT", "TAGS", "LIMITS", "STATE")
    ]
    assert table[1].split("  ")[0] == "alice"
    assert "a,b" in table[1]
    assert "60 requests/min" in table[1]
    assert table[1].endswith("valid")
    assert table[2].endswith("expired")


async def test_yaml_needs_no_cluster_and_has_the_hash_only(api: ApiServer, run: Run):
    made = await run("create", "alice", "-o", "yaml")
    secret = yaml.safe_load(made.stdout)
    key = made.stderr.split()[-1]
    assert secret["stringData"] == {"hash": hash_of(key)}
    assert key not in made.stdout
    assert not api.seen


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--expires", "tomorrow"], "expires: expected a time with its zone"),
        (["--models", "a b"], "models: expected names of models"),
        (["--queue-share", "0.1234567890123"], "queue-share: expected a share"),
        (["--priority", "high"], "priority: expected interactive or batch"),
    ],
)
async def test_what_a_key_cannot_grant_is_said_before_it_is_made(
    api: ApiServer, run: Run, arguments: list[str], said: str
):
    made = await run("create", "alice", *arguments)
    assert said in str(made.exception)
    assert not api.seen
