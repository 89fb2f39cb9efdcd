"""Models on a Hugging Face hub: only the needed files, never a pickle."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import structlog
from typing_extensions import override

from ..errors import ModelError, UnreachableError
from .contents import check_complete, wanted_files
from .http import allowed_endpoints, answers_up_to, guard, is_guarded, reason
from .names import safe_version
from .remote import Listing, Moved, Remote, RemoteFile

log = structlog.get_logger()

_TIMEOUT = 30.0  # seconds for the hub's answer about a repository
_PUBLIC = "https://huggingface.co"
# What an answer provokes that is JSON, but not a hub's.
_NONSENSE = (ValueError, TypeError, LookupError, AttributeError)


class HubModel(Remote):
    """hf://OWNER/NAME at a branch, tag or commit. Honours HF_ENDPOINT, HF_TOKEN and HF_HOME."""

    def __init__(self, repository: str, revision: str) -> None:
        # Imported here and below: it takes a second, and other models do not need it.
        from huggingface_hub import HfApi

        self.source = f"hf://{repository}"
        self.revision = revision
        self._repository = repository
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        _guard_downloads(self._api.endpoint)
        host = urlsplit(self._api.endpoint).hostname  # for the log: its URL could hold a password
        log.info("asking a hub", source=self.source, endpoint=host)

    @property
    @override
    def where(self) -> str:
        return f"{self.source} (revision {self.revision})"

    @override
    def list(self) -> Listing:
        with _our_errors():
            info = self._api.model_info(
                self._repository, revision=self.revision, files_metadata=True, timeout=_TIMEOUT
            )
            if info.gated:  # its list of files is public, and they may be in the cache already
                self._api.auth_check(self._repository)
            sizes = {str(file.rfilename): file.size for file in info.siblings or []}
        check_complete("the repository", sizes)
        # A name of a file and of a folder, for what comes next and for the cache.
        version = safe_version(info.sha or self.revision)
        files = [
            RemoteFile(name=name, size=self._size(name, version, sizes[name]), key=version)
            for name in wanted_files(sizes)
        ]
        return Listing(version=version, files=tuple(files))

    def _size(self, name: str, version: str, told: int | None) -> int:
        """Mirrors leave sizes out of their lists."""
        if told is not None:
            return told
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self._repository, name, revision=version, endpoint=self._api.endpoint)
        with _our_errors():
            size = self._api.get_hf_file_metadata(url=url, timeout=_TIMEOUT).size
        if size is None:
            raise ModelError(f"the hub does not tell the size of {name[:100]!r}")
        return size

    @override
    def fetch(self, file: RemoteFile, folder: Path, moved: Moved) -> None:
        bar = _bar_class(file, moved)
        # Its bytes are counted by the bar.
        with _our_errors(), answers_up_to(None):
            self._api.hf_hub_download(
                self._repository, file.name, revision=file.key, local_dir=folder, tqdm_class=bar
            )
        bar.finish()

    @override
    def finish(self, folder: Path) -> None:
        shutil.rmtree(folder / ".cache", ignore_errors=True)

    @override
    def copy_of(self, listing: Listing | None) -> Path | None:
        """What `hf download` left in Hugging Face's own cache."""
        from huggingface_hub import errors, snapshot_download

        revision = listing.version if listing else self.revision
        try:
            found = Path(
                snapshot_download(self._repository, revision=revision, local_files_only=True)
            )
        except (errors.LocalEntryNotFoundError, OSError, ValueError):  # none, or a broken one
            return None
        whole = listing is None or all(
            (found / file.name).is_file() and (found / file.name).stat().st_size == file.size
            for file in listing.files
        )
        return found if whole else None


def _guard_downloads(endpoint: str) -> None:
    """Has huggingface_hub ask by a guarded client, and by nothing else where addresses matter."""
    import httpx2
    from huggingface_hub import constants, get_session, set_client_factory

    hooks = get_session().event_hooks  # its own keep it offline where that is asked for

    def client() -> httpx2.Client:
        # For what it asks without a timeout of its own.
        timeout = httpx2.Timeout(60.0, connect=10.0)
        return guard(httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=timeout))

    if not is_guarded(get_session()):
        set_client_factory(client)
    # Xet has connections of its own, to wherever the hub says.
    if allowed_endpoints().restricts and endpoint != _PUBLIC:
        constants.HF_HUB_DISABLE_XET = True


@contextlib.contextmanager
def _our_errors() -> Iterator[None]:
    import httpx2
    from huggingface_hub import errors

    accept = "and give its token as spec.model.tokenSecretRef (or HF_TOKEN)"
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"the model is gated: accept its licence on the hub with an account {accept}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            "it does not exist, or it is private: check the name, or let an account read it "
            f"{accept}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            "the repository has no such revision: check spec.model.revision"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = "the token is not accepted" if status in (401, 403) else "the hub's own error"
        raise ModelError(f"the hub answers HTTP {status}: {hint}") from error
    except errors.OfflineModeIsEnabled as error:
        raise UnreachableError(
            "HF_HUB_OFFLINE is set, and the model is not in the cache: put a copy under --model-dir"
        ) from error
    except (httpx2.TransportError, errors.LocalEntryNotFoundError) as error:
        raise _unreachable(error) from error
    except OSError as error:
        if error.errno is None:  # not the system's: they quote what the hub said
            raise _no_hub(error) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ModelError(f"it cannot be downloaded: {error.strerror}") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, *_NONSENSE) as error:
        raise _no_hub(error) from error


def _unreachable(error: BaseException) -> ModelError:
    from huggingface_hub import errors

    cause = error
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        cause = error.__cause__
    if isinstance(cause, errors.FileMetadataError):
        return _no_hub(cause)
    if isinstance(cause, errors.HfHubHTTPError):
        return UnreachableError(f"the hub answers HTTP {cause.response.status_code}")
    return UnreachableError(
        f"the hub cannot be reached ({reason(cause)}): check the network and HF_ENDPOINT, or put a "
        "copy under --model-dir"
    )


def _no_hub(error: BaseException) -> ModelError:
    return ModelError(
        f"what answers is no Hugging Face hub, or contradicts itself ({type(error).__name__}): "
        "check HF_ENDPOINT"
    )


def _bar_class(whole: RemoteFile, moved: Moved) -> Any:
    """What huggingface_hub takes for a tqdm class, for one file. ModelError beyond its size."""

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
            if Bar.seen > whole.size:
                raise ModelError(f"expected {whole.size} bytes of {whole.name}, found more")
            moved(int(count or 0))

        def update_transfer(self, count: float | None = 1) -> None:
            """Its presence tells huggingface_hub that one bar does for network and disk."""

        def set_postfix_str(self, *_: object, **__: object) -> None:
            pass

        set_transfer_postfix_str = set_postfix_str

        @classmethod
        def finish(cls) -> None:
            """Files that were there already count, too."""
            moved(whole.size - cls.seen)

    return Bar
