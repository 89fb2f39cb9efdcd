"""Downloads a model from a Hugging Face hub: only the needed files, never a pickle."""

from __future__ import annotations

import errno
import fnmatch
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import structlog

from .errors import ModelError
from .progress import Report

log = structlog.get_logger()

_WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")
_CONNECTIONS = 4


def wanted_files(names: Iterable[str]) -> list[str]:
    """What a worker reads: top-level files only; folders hold exports for other runtimes."""
    wanted = [
        name
        for name in sorted(names)
        if "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in _WANTED)
    ]
    if any(name.startswith("model") and name.endswith(".safetensors") for name in wanted):
        # Some repositories hold the same weights twice, in their vendor's own layout.
        wanted = [name for name in wanted if not name.startswith("consolidated")]
    return wanted


def download(
    repository: str, revision: str, report: Report, *, cache_dir: Path | None = None
) -> Path:
    """The snapshot's folder in Hugging Face's own cache. Raises ModelError.

    Honours HF_ENDPOINT, HF_TOKEN and HF_HOME. Interrupted files go on where they stopped. A hub
    that cannot be reached is an error only if the snapshot is not in the cache already.
    """
    # Imported here: it takes a second, and local models do not need it.
    import httpx2
    from huggingface_hub import HfApi, errors, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    api = HfApi(endpoint=endpoint)
    where = f"hf://{repository} (revision {revision}) at {api.endpoint}"
    report("Download", 0.0)
    try:
        try:
            return _fetch(api, repository, revision, report, cache_dir)
        except (httpx2.TransportError, errors.OfflineModeIsEnabled) as error:
            try:
                folder = snapshot_download(
                    repository, revision=revision, cache_dir=cache_dir, local_files_only=True
                )
            except errors.LocalEntryNotFoundError:
                raise error from None
            log.warning("the hub cannot be reached, using the cached snapshot", source=where)
            return Path(folder)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{where} is gated: accept its terms on the hub, and set HF_TOKEN to a token that may "
            "read it"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{where} does not exist, or it is private: check the name, and set HF_TOKEN to a "
            "token that may read it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{where}: the repository has no such revision") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = "HF_TOKEN is not accepted" if status in (401, 403) else "the hub's own error"
        raise ModelError(f"{where}: the hub answers HTTP {status}: {hint}") from error
    except (httpx2.TransportError, errors.OfflineModeIsEnabled) as error:
        raise ModelError(
            f"{where}: the hub cannot be reached ({str(error) or type(error).__name__}): check the "
            "network and HF_ENDPOINT, or put a copy under --model-dir"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(f"{where}: the disk is full: free space under HF_HOME") from error
        raise ModelError(f"{where}: cannot be downloaded: {error}") from error


def _fetch(
    api: Any, repository: str, revision: str, report: Report, cache_dir: Path | None
) -> Path:
    from .sources import check_weights

    info = api.model_info(repository, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    check_weights(f"hf://{repository}", set(sizes))
    names = wanted_files(sizes)
    meter = _Meter(sum(sizes[name] for name in names), report)

    def fetch(name: str) -> Path:
        bar = meter.bar_class(sizes[name])
        path = api.hf_hub_download(
            repository, name, revision=info.sha, cache_dir=cache_dir, tqdm_class=bar
        )
        bar.finish()
        return Path(path)

    with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="download") as pool:
        futures = [pool.submit(fetch, name) for name in names]
        try:
            paths = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    report("Download", 1.0)
    return paths[0].parent


class _Meter:
    """Sums the bytes of all files; `report` may raise, and then the downloads stop."""

    def __init__(self, total: int, report: Report) -> None:
        self._total = max(total, 1)
        self._report = report
        self._lock = threading.Lock()
        self._done = 0

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            share = self._done / self._total
        self._report("Download", share)

    def bar_class(self, size: int) -> Any:
        """What huggingface_hub takes for a tqdm class, for one file of so many bytes."""
        meter = self

        class Bar:
            seen = 0

            def __init__(self, *_: Any, initial: int = 0, **__: Any) -> None:
                self.update(initial)

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def close(self) -> None:
                pass

            def update(self, count: float | None = 1) -> None:
                Bar.seen += int(count or 0)
                meter.add(int(count or 0))

            def update_transfer(self, count: float | None = 1) -> None:
                """Its presence tells huggingface_hub that one bar does for network and disk."""

            def set_postfix_str(self, *_: object, **__: object) -> None:
                pass

            set_transfer_postfix_str = set_postfix_str

            @classmethod
            def finish(cls) -> None:
                """Files that were in the cache already count, too."""
                meter.add(size - cls.seen)

        return Bar
