"""The Secret that an API key is: what users and GitOps write, read and made (docs/keys.md)."""

from __future__ import annotations

import datetime
import difflib
import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, TypeVar, cast

from ..decisions.api_keys import ApiKey, KeyLimits, Priority
from .model_deployment import GROUP
from .other_kinds import read_values

LABEL: Final = f"{GROUP}/api-key"
PREFIX: Final = "mf-"  # of the keys that we make, so that scanners for leaked ones find them

_SHORTEST = 16  # characters of a key: a shorter one could be guessed from its hash
_LONGEST = 512
_MOST_KEYS = 8  # in one Secret
_MOST_TAGS = 16
_MOST_MODELS = 100
_MOST = 10**12  # of a limit

_KEY = re.compile(rf"[!-~]{{{_SHORTEST},{_LONGEST}}}")
_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.IGNORECASE)
_MODEL = re.compile(r"\*|[A-Za-z0-9][-A-Za-z0-9._:/]{0,511}\*?")
_TENANT = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._/@:]{0,199}")
_TAG = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._/@:=]{0,62}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
_COUNT = re.compile(r"[1-9][0-9]{0,12}")
_SHARE = re.compile(r"(0?\.[0-9]{1,9}|1(\.0{1,9})?)")

Value = TypeVar("Value")


def is_key_secret(document: Any) -> bool:
    """Whether it is a Secret with our label, whatever the label's value is."""
    if not isinstance(document, dict) or document.get("kind") != "Secret":
        return False
    metadata = document.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return isinstance(labels, dict) and LABEL in labels


def hash_of(key: str) -> str:
    """As a Secret has it: "sha256:" and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def new_key() -> str:
    """A key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def read_key_secret(document: Mapping[str, Any]) -> tuple[list[str], ApiKey | None]:
    """What is wrong with it, one sentence each, or else what it grants.

    A key with anything wrong is not in force: what was meant to restrict it may be what is wrong.
    No sentence quotes its data.
    """
    problems, reference, texts = read_values(document)
    if reference is None:
        return [*problems, "metadata: expected a name"], None
    problems += _problems_of_keys(texts)
    metadata = document["metadata"]
    annotations = metadata.get("annotations") or {}
    ours = {
        name.removeprefix(f"{GROUP}/"): value
        for name, value in annotations.items()
        if name.startswith(f"{GROUP}/")
    }
    read: dict[str, Any] = {}
    for name, value in ours.items():
        if name not in _READERS:
            close = difflib.get_close_matches(name, _READERS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_READERS)}"
            problems.append(f"annotation {GROUP}/{name[:63]}: it says nothing of a key; {hint}")
            continue
        try:
            read[name] = _READERS[name](value if isinstance(value, str) else "")
        except ValueError as error:
            problems.append(f"annotation {GROUP}/{name}: expected {error}")
    if problems:
        return problems, None
    return [], ApiKey(
        id=f"{reference.namespace}/{reference.name}",
        hashes=tuple(_hashes(texts)),
        name=read.get("key-name", reference.name),
        tenant=read.get("tenant", ""),
        tags=read.get("tags", ()),
        models=read.get("models"),
        expires=read.get("expires", 0.0),
        priority=read.get("priority", "interactive"),
        limits=KeyLimits(
            requests_per_minute=read.get("requests-per-minute", 0),
            tokens_per_minute=read.get("tokens-per-minute", 0),
            max_concurrent=read.get("max-concurrent", 0),
            queue_share=read.get("queue-share", 0.0),
        ),
        created=_time(str(metadata.get("creationTimestamp") or "1970-01-01T00:00:00Z")),
    )


def key_secret(
    namespace: str, name: str, hashes: list[str], annotations: Mapping[str, str]
) -> dict[str, Any]:
    """The Secret of a key, which has its hashes only; `annotations` without our prefix."""
    ours = {f"{GROUP}/{key}": value for key, value in annotations.items() if value}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {LABEL: "true"},
            **({"annotations": ours} if ours else {}),
        },
        "type": "Opaque",
        "stringData": {"hash": "\n".join(hashes)},
    }


def _problems_of_keys(texts: Mapping[str, str]) -> Iterator[str]:
    keys, hashes = texts.get("key", "").split(), texts.get("hash", "").split()
    if not keys and not hashes:
        yield "data: expected a key in `key`, or its hash in `hash`"
    if len(keys) + len(hashes) > _MOST_KEYS:
        yield f"data: expected at most {_MOST_KEYS} keys, found {len(keys) + len(hashes)}"
    if not all(map(_KEY.fullmatch, keys)):
        yield f"data.key: expected {_SHORTEST} to {_LONGEST} ASCII characters without spaces"
    if not all(map(_HASH.fullmatch, hashes)):
        yield "data.hash: expected sha256: and 64 hexadecimal digits, the SHA-256 of the key"


def _hashes(texts: Mapping[str, str]) -> dict[bytes, None]:
    """Each once, in order."""
    said = (_HASH.fullmatch(one) for one in texts.get("hash", "").split())
    hashes = [bytes.fromhex(found[1]) for found in said if found]
    keys = texts.get("key", "").split()
    return dict.fromkeys([*hashes, *(hashlib.sha256(key.encode()).digest() for key in keys)])


def _list(value: str, pattern: re.Pattern[str], most: int, expected: str) -> tuple[str, ...]:
    entries = tuple(entry for part in value.split(",") if (entry := part.strip()))
    if not 0 < len(entries) <= most or not all(map(pattern.fullmatch, entries)):
        raise ValueError(f"{expected}, {most} at most, with commas between them")
    return entries


def _models(value: str) -> tuple[str, ...] | None:
    models = _list(value, _MODEL, _MOST_MODELS, "names of models, or beginnings such as team-a/*")
    return None if "*" in models else models


def _tags(value: str) -> tuple[str, ...]:
    return _list(value, _TAG, _MOST_TAGS, "tags of letters, digits and ._/@:=-")


def _matched(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(expected)
        return value

    return read


def _count(value: str) -> int:
    if not _COUNT.fullmatch(value) or int(value) > _MOST:
        raise ValueError("a whole number above 0")
    return int(value)


def _small_count(value: str) -> int:
    if _count(value) >= 2**32:
        raise ValueError("a whole number from 1 to 4294967295")
    return int(value)


def _share(value: str) -> float:
    if not _SHARE.fullmatch(value) or not float(value) > 0:
        raise ValueError("a share above 0 and at most 1, such as 0.25")
    return float(value)


def _priority(value: str) -> Priority:
    if value not in ("interactive", "batch"):
        raise ValueError("interactive or batch")
    return cast("Literal['interactive', 'batch']", value)


def _time(value: str) -> float:
    expected = "a time with its zone as RFC 3339 writes it, such as 2027-01-31T00:00:00Z"
    try:
        time = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(expected) from None
    if time.tzinfo is None or "T" not in value:
        raise ValueError(expected)
    return time.timestamp()


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "key-name": _matched(_NAME, "1 to 100 characters"),
    "models": _models,
    "expires": _time,
    "tenant": _matched(_TENANT, "1 to 200 letters, digits and ._/@:-"),
    "tags": _tags,
    "priority": _priority,
    "requests-per-minute": _count,
    "tokens-per-minute": _count,
    "max-concurrent": _small_count,
    "queue-share": _share,
}
