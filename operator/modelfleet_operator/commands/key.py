"""`modelfleet key`: makes, lists and revokes API keys."""

from __future__ import annotations

import datetime
import enum
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelfleet_process.command_line import STYLE

from .options import Context

if TYPE_CHECKING:
    from ..cluster.api_keys import KeySecret

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DAYS = re.compile(r"([1-9][0-9]{0,4})d")

app = typer.Typer(
    help="Make, list and revoke API keys, which are Secrets of a cluster.",
    no_args_is_help=True,
    **STYLE,
)

KeyNamespace = Annotated[
    str,
    typer.Option(
        "--namespace", "-n", help="Where the operator runs, or another one that it reads keys of."
    ),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        help="Of the cluster. Default: $KUBECONFIG or ~/.kube/config.",
        show_default=False,
        exists=True,
        dir_okay=False,
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the Secret.", show_default=False)]


class Output(enum.StrEnum):
    """Where a new key goes."""

    CLUSTER = "cluster"
    YAML = "yaml"


class ListOutput(enum.StrEnum):
    """What is printed."""

    TABLE = "table"
    JSON = "json"


@app.command()
def create(
    name: Name,
    namespace: KeyNamespace = "modelfleet-system",
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="It may use this model, or all whose names begin so (team-a/*); may be repeated. "
            "Default: all.",
        ),
    ] = None,
    expires: Annotated[
        str,
        typer.Option(metavar="TIME", help="2027-01-31T00:00:00Z, or 90d from now. Default: never."),
    ] = "",
    tags: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="For reports; may be repeated.")
    ] = None,
    tenant: Annotated[
        str,
        typer.Option(
            help="Keys of one tenant share cached prompts and stored responses. Default: its own."
        ),
    ] = "",
    priority: Annotated[str, typer.Option(metavar="interactive|batch")] = "",
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit.")] = 0,
    max_concurrent: Annotated[int, typer.Option(min=0, help="Requests; 0: no limit.")] = 0,
    queue_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of each model's queue; 0: no limit.")
    ] = 0.0,
    add: Annotated[
        bool,
        typer.Option("--add", help="Another key of the same Secret, to replace the one before."),
    ] = False,
    output: Annotated[
        Output,
        typer.Option(
            "--output",
            "-o",
            help="yaml prints the Secret, for GitOps and `modelfleet up`, and needs no cluster.",
        ),
    ] = Output.CLUSTER,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Make a key. It is printed once; the Secret has its hash only."""
    import asyncio

    from ..api.key_secret import hash_of, key_secret, new_key, read_key_secret
    from ..errors import ApiKeyError

    _check(name)
    annotations = {
        "models": ",".join(models or ()),
        "expires": _time(expires),
        "tags": ",".join(tags or ()),
        "tenant": tenant,
        "priority": priority,
        "requests-per-minute": _number(requests_per_minute),
        "tokens-per-minute": _number(tokens_per_minute),
        "max-concurrent": _number(max_concurrent),
        "queue-share": _number(queue_share),
    }
    key = new_key()
    secret = key_secret(namespace, name, [hash_of(key)], annotations)
    problems, _ = read_key_secret(secret)
    if problems:
        raise ApiKeyError("\n".join(problems))
    if add and (any(annotations.values()) or output is Output.YAML):
        raise typer.BadParameter("the Secret stays as it is otherwise", param_hint="--add")
    if output is Output.YAML:
        import yaml

        typer.echo(yaml.safe_dump(secret, sort_keys=False), nl=False)
        typer.echo(f"the key, which is shown this once: {key}", err=True)
        return

    async def make() -> None:
        from ..cluster.key_store import key_store

        async with key_store(namespace, kubeconfig, context) as store:
            if not add:
                await store.create(secret)
                return
            there = await store.read(name)
            await store.set_hashes(there, [*_hashes(there), hash_of(key)])

    asyncio.run(make())
    typer.echo(f"the key of {namespace}/{name}, which is shown this once:", err=True)
    typer.echo(key)


@app.command(name="list")
def list_keys(
    namespace: KeyNamespace = "modelfleet-system",
    output: Annotated[ListOutput, typer.Option("--output", "-o")] = ListOutput.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List the keys and what each grants; where one is not in force, why."""
    import asyncio
    import json
    import time

    from ..decisions.api_keys import keys_in_force
    from ..terminal import printable

    async def find() -> list[KeySecret]:
        from ..cluster.key_store import key_store

        async with key_store(namespace, kubeconfig, context) as store:
            return await store.all()

    found = asyncio.run(find())
    _, conflicts = keys_in_force(secret.key for secret in found if secret.key)
    refused = {conflict.id: conflict.message for conflict in conflicts}
    rows = [_row(secret, refused.get(secret.id, ""), time.time()) for secret in found]
    if output is ListOutput.JSON:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    columns = ("name", "keys", "models", "expires", "tenant", "tags", "limits", "state")
    table = [[column.upper() for column in columns]]
    table += [[str(row[column]) or "-" for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        typer.echo(printable("  ".join(cells).rstrip()))


@app.command()
def revoke(
    name: Name,
    namespace: KeyNamespace = "modelfleet-system",
    older: Annotated[
        bool, typer.Option("--older", help="Only those before the one that --add made last.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Revoke a key: gateways refuse it a moment later. Requests that run go on."""
    import asyncio

    _check(name)

    async def end() -> str:
        from ..cluster.key_store import key_store

        async with key_store(namespace, kubeconfig, context) as store:
            secret = await store.read(name)
            if not older:
                await store.delete(secret)
                return f"{secret.id} is revoked"
            hashes = _hashes(secret)
            await store.set_hashes(secret, hashes[-1:])
            return f"{len(hashes) - 1} older keys of {secret.id} are revoked"

    typer.echo(asyncio.run(end()))


def _hashes(secret: KeySecret) -> list[str]:
    from ..errors import ApiKeyError

    if secret.key is None:
        raise ApiKeyError(f"{secret.id} is not in force: {'; '.join(secret.problems)}")
    return [f"sha256:{one.hex()}" for one in secret.key.hashes]


def _row(secret: KeySecret, conflict: str, now: float) -> dict[str, Any]:
    key = secret.key
    row: dict[str, Any] = {"name": secret.metadata["name"]}
    if key is None:
        empty = dict.fromkeys(("keys", "models", "expires", "tenant", "tags", "limits"), "")
        return {**row, **empty, "state": f"not in force: {'; '.join(secret.problems)}"}
    limits = key.limits
    said = {
        "requests/min": limits.requests_per_minute,
        "tokens/min": limits.tokens_per_minute,
        "concurrent": limits.max_concurrent,
        "of the queue": limits.queue_share,
        "batch": key.priority == "batch",
    }
    state = "expired" if key.expires and key.expires <= now else "valid"
    return {
        **row,
        "keys": len(key.hashes),
        "models": "all" if key.models is None else ",".join(key.models),
        "expires": _shown(key.expires),
        "tenant": key.tenant,
        "tags": ",".join(key.tags),
        "limits": ", ".join(
            name if value is True else f"{value:g} {name}" for name, value in said.items() if value
        ),
        "state": f"not in force: {conflict}" if conflict else state,
    }


def _shown(time: float) -> str:
    if not time:
        return ""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _time(value: str) -> str:
    """90d -> the second in 90 days; others as they are."""
    days = _DAYS.fullmatch(value)
    if days is None:
        return value
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=int(days[1]))
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(value: float) -> str:
    return f"{value:.15g}" if value else ""


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):  # it becomes part of a URL
        raise typer.BadParameter(f"expected the name of a Secret, found {name[:80]!r}")
