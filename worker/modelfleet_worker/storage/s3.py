"""Models in an S3 bucket, of AWS or of any store that speaks its protocol (AWS_ENDPOINT_URL)."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from typing_extensions import override

from ..errors import BrokenTransferError, ModelError, UnreachableError
from .bucket_credentials import SENTENCE, keep_to_the_list
from .contents import check_complete, wanted_files
from .http import allowed_endpoints, reason
from .names import MOST_FILES
from .remote import Listing, Moved, Remote, RemoteFile
from .resuming import fetch_file

log = structlog.get_logger()

_CHUNK = 1 << 20
_LOGIN = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY by spec.podTemplate, or give the pods a "
    "service account with a role"
)
# What an answer provokes that is no store's; RecursionError: a redirect to everything.
_NONSENSE = (LookupError, TypeError, ValueError, AttributeError, RecursionError)
_BAD_LOGINS = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}


class BucketModel(Remote):
    """s3://BUCKET/PREFIX: the objects right under the prefix. Credentials as boto3 finds them."""

    def __init__(self, bucket: str, prefix: str) -> None:
        # Imported here: only these models need it.
        import boto3
        import botocore.session
        from botocore.config import Config

        from .bucket_http import BucketSender

        self.source = f"s3://{bucket}/{prefix}"
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        with _our_errors():
            session = botocore.session.get_session()
            keep_to_the_list(session, allowed_endpoints())
            sender = BucketSender(session.get_config_variable("ca_bundle"))
            session.register("before-send", sender)
            self._client: Any = boto3.Session(botocore_session=session).client(
                "s3", config=Config(retries={"mode": "standard", "max_attempts": 3})
            )
        log.info("asking a store", source=self.source, endpoint=_host(self._client))

    @override
    def list(self) -> Listing:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
        )
        objects: dict[str, RemoteFile] = {}
        folders: list[str] = []
        with _our_errors():
            for page in pages:
                found = map(self._file, page.get("Contents", []))
                objects |= {file.name: file for file in found if file.name}  # not the folder itself
                folders += [f["Prefix"].rstrip("/") for f in page.get("CommonPrefixes", [])]
                if len(objects) + len(folders) > MOST_FILES:
                    raise ModelError(f"more than {MOST_FILES} objects are there: name one model")
        if not objects:
            below = ", ".join(f"s3://{self._bucket}/{folder}" for folder in folders[:3])
            raise ModelError(
                f"there are no objects; did you mean {below}?" if below else "it is empty"
            )
        check_complete("it", [*objects, *(f"{folder.rpartition('/')[2]}/" for folder in folders)])
        files = tuple(objects[name] for name in wanted_files(objects))
        content = "\n".join(f"{file.name} {file.size} {file.etag}" for file in files)
        return Listing(version=hashlib.sha256(content.encode()).hexdigest(), files=files)

    def _file(self, found: dict[str, Any]) -> RemoteFile:
        key = str(found["Key"])
        name = key.removeprefix(self._prefix)
        return RemoteFile(name=name, size=found["Size"], key=key, etag=str(found["ETag"]))

    @override
    def fetch(self, file: RemoteFile, folder: Path, moved: Moved) -> None:
        # Never the beginning of one version and the end of another.
        wanted = {"Bucket": self._bucket, "Key": file.key, "IfMatch": file.etag}

        def read(offset: int) -> Iterator[bytes]:
            with _our_errors():
                found = self._client.get_object(**wanted, Range=f"bytes={offset}-")
            with contextlib.closing(found["Body"]) as body, _our_errors(mid_file=True):
                yield from body.iter_chunks(_CHUNK)

        with _our_errors():
            digest = _digest(self._client.head_object(**wanted))
        fetch_file(folder / file.name, file.size, read, moved, digest=digest)


def _digest(head: dict[str, Any]) -> tuple[str, str] | None:
    """The ETag is the MD5 of what was put in one part, unless a key of the customer encrypts it."""
    etag = head["ETag"].strip('"')
    customers = head.get("ServerSideEncryption", "AES256") != "AES256" or head.get(
        "SSECustomerAlgorithm"
    )
    return None if customers or not re.fullmatch("[0-9a-f]{32}", etag) else ("md5", etag)


@contextlib.contextmanager
def _our_errors(*, mid_file: bool = False) -> Iterator[None]:
    """The library quotes answers and settings in its errors: ours say which kind it was."""
    import httpx2
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise ModelError(_explain(error.response)) from error
    except (exceptions.HTTPClientError, exceptions.ConnectionError, httpx2.TransportError) as error:
        cause = getattr(error, "kwargs", {}).get("error") or error
        if mid_file:
            raise BrokenTransferError(reason(cause)) from error
        raise UnreachableError(
            f"the store cannot be reached ({reason(cause)}): check the network and AWS_ENDPOINT_URL"
        ) from error
    except exceptions.IncompleteReadError as error:
        raise BrokenTransferError("the answer ended early") from error
    except exceptions.NoCredentialsError as error:
        raise ModelError(f"there are no credentials: {_no_login()}") from error
    except exceptions.ParamValidationError as error:
        raise ModelError("there can be no such bucket: check spec.model.source") from error
    except (
        exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError,
        exceptions.PartialCredentialsError,
        exceptions.ProfileNotFound,
        exceptions.ConfigParseError,
    ) as error:
        raise ModelError(
            f"no credentials can be had ({type(error).__name__}): {_no_login()}"
        ) from error
    except exceptions.NoRegionError as error:
        raise ModelError("there is no region: set AWS_REGION by spec.podTemplate") from error
    except (exceptions.BotoCoreError, httpx2.HTTPError, OSError, *_NONSENSE) as error:
        raise ModelError(
            f"what answers is no S3 store, or a setting is wrong ({type(error).__name__}): check "
            "AWS_ENDPOINT_URL and the other AWS variables"
        ) from error


def _no_login() -> str:
    return f"{_LOGIN}; {SENTENCE}" if allowed_endpoints().restricts else _LOGIN


def _explain(response: dict[str, Any]) -> str:
    code = str(response.get("Error", {}).get("Code", ""))
    if code in _BAD_LOGINS:
        return f"the credentials are not accepted ({code}): {_LOGIN}"
    match code:
        case "NoSuchBucket":
            return "there is no such bucket: check spec.model.source and AWS_ENDPOINT_URL"
        case "AccessDenied" | "403":
            return "access is denied: the credentials need s3:ListBucket and s3:GetObject there"
        case "NoSuchKey" | "404" | "PreconditionFailed" | "412":
            return "it changed while it was fetched: the next try takes what is there then"
        case "PermanentRedirect" | "301" | "IllegalLocationConstraintException":
            return "the bucket is in another region: set AWS_REGION by spec.podTemplate"
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", "an error")
    return f"the store answers HTTP {status}: check spec.model.source and AWS_ENDPOINT_URL"


def _host(client: Any) -> str:
    """Of the endpoint, for the log: its URL could hold a password."""
    return urlsplit(str(client.meta.endpoint_url)).hostname or ""
