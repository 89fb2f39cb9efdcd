"""The state directory: which process runs here, the status, the logs of the children."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from ..errors import ExplainError, StartError

EXPLAIN_ADDRESS = "explain.address"
ENDPOINT = "endpoint"


def default_directory() -> Path:
    """`$MODELFLEET_STATE_DIR`, else `modelfleet` where XDG keeps state."""
    if chosen := os.environ.get("MODELFLEET_STATE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "modelfleet"


class StateDirectory:
    """`logs/`, `batches/` and `learned.json`; while it runs also `run/`, `lock` and what there is.

    That is `status/NAMESPACE/NAME.yaml` for deployments, `pools/NAMESPACE/NAME.yaml` for pools.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.logs = path / "logs"
        self._status = path / "status"
        self._pools = path / "pools"
        self._lock = path / "lock"
        self.learned = path / "learned.json"
        self.batches = path / "batches"  # files and batches, over restarts; the gateway's

    @contextlib.contextmanager
    def held(self) -> Iterator[Self]:
        """Ours alone until the end. StartError if another `up` has it or it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._lock.open("a+")
        except OSError as error:
            raise StartError(
                f"the state directory {self.path} cannot be written: {error.strerror}; "
                "choose another with --state-dir"
            ) from error
        with lock:
            try:
                # The kernel releases it however this process ends.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StartError(
                    f"`modelfleet up` (process {self.holder()}) runs with the state directory "
                    f"{self.path}: end it, or choose another with --state-dir"
                ) from None
            self._clear()  # of one that was killed
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            for folder in (self.run, self.logs, self._status, self._pools):
                folder.mkdir(exist_ok=True)
            try:
                yield self
            finally:
                self._clear()
                self._lock.unlink(missing_ok=True)

    def holder(self) -> int | None:
        """The process id of the `up` that runs here; None: none does."""
        try:
            with self._lock.open("r") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(lock.read() or 0)
        except OSError:
            return None
        return None

    def write_explain_address(self, address: str) -> None:
        """HOST:PORT where the fleet that runs here hands out snapshots."""
        (self.run / EXPLAIN_ADDRESS).write_text(address)

    def explain_address(self) -> str:
        """What `write_explain_address` wrote; ExplainError when no fleet runs here."""
        with contextlib.suppress(OSError):
            return (self.run / EXPLAIN_ADDRESS).read_text()
        raise ExplainError(f"no fleet runs with the state directory {self.path}")

    def write_endpoint(self, endpoint: str) -> None:
        """URL of the gateway, once it is ready."""
        (self.run / ENDPOINT).write_text(endpoint)

    def endpoint(self) -> str:
        """What `write_endpoint` wrote; empty: no gateway is ready yet."""
        with contextlib.suppress(OSError):
            return (self.run / ENDPOINT).read_text()
        return ""

    def write_logins(self, model: str, configs: Iterable[str]) -> str:
        """Docker configs of a model, for this user only; returns their folder."""
        folder = self.run / "pull-secrets" / model
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number, text in enumerate(configs):
            file = folder / f"{number}.json"
            file.touch(mode=0o600)
            file.write_text(text)
        return str(folder)

    def remove_status(self, namespace: str, name: str) -> None:
        """The deployment is gone."""
        (self._status / namespace / f"{name}.yaml").unlink(missing_ok=True)

    def write_status(self, namespace: str, name: str, document: Mapping[str, Any]) -> None:
        """Replaces the file as a whole, so that no reader sees half of it."""
        _write_whole(self._status / namespace / f"{name}.yaml", document)

    def write_pool(self, namespace: str, name: str, document: Mapping[str, Any]) -> None:
        """The same for a warm pool."""
        _write_whole(self._pools / namespace / f"{name}.yaml", document)

    def remove_pool(self, namespace: str, name: str) -> None:
        """The pool is gone."""
        (self._pools / namespace / f"{name}.yaml").unlink(missing_ok=True)

    def read_statuses(self) -> list[dict[str, Any]]:
        """Every deployment with its status, by name."""
        return _read_all(self._status)

    def read_pools(self) -> list[dict[str, Any]]:
        """Every warm pool with its status, by name."""
        return _read_all(self._pools)

    def names(self) -> list[str]:
        """Of every deployment: `name` in the namespace default, else `namespace/name`."""
        found = [document["metadata"] for document in self.read_statuses()]
        return [f"{m['namespace']}/{m['name']}".removeprefix("default/") for m in found]

    def has_no(self, names: str) -> str:
        """The sentence for names that no deployment has, with those that there are."""
        return f"no ModelDeployment {names} runs here; there are: {', '.join(self.names()) or '-'}"

    def _clear(self) -> None:
        shutil.rmtree(self._status, ignore_errors=True)
        shutil.rmtree(self._pools, ignore_errors=True)
        shutil.rmtree(self.run, ignore_errors=True)


def _write_whole(file: Path, document: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True))
    fresh.replace(file)


def _read_all(folder: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted(folder.glob("*/*.yaml")):
        with contextlib.suppress(FileNotFoundError):  # the fleet is just ending
            found.append(yaml.safe_load(file.read_text()))
    return found
