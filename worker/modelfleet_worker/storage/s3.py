"""Models in an S3 bucket, of AWS or of any store that speaks its protocol (AWS_ENDPOINT_URL)."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typing_extensions import override

from ..errors import BrokenTransferError, ModelError, UnreachableError
from .remote import Listing, Moved, Remote, RemoteFile, check_weights, wanted_files
from .resuming import fetch_file

_CHUNK = 1 << 20
_LOGIN = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY by spec.podTemplate, or give the pods a "
    "service account with a role"
)
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
        from botocore.config import Config

        self.source = f"s3://{bucket}/{prefix}"
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        with _our_errors():
            self._client: Any = boto3.Session().client(
                "s3",
                config=Config(
                    connect_timeout=10,
                    read_timeout=60,
                    retries={"mode": "standard", "max_attempts": 3},
                ),
            )

    @property
    @override
    def where(self) -> str:
        return f"{self.source} at {self._client.meta.endpoint_url}"

    @override
    def list(self) -> Listing:
        objects: dict[str, Any] = {}
        folders: list[str] = []
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
        )
        with _our_errors():
            for page in pages:
                for found in page.get("Contents", []):
                    objects[found["Key"].removeprefix(self._prefix)] = found
                folders += [f["Prefix"].rstrip("/") for f in page.get("CommonPrefixes", [])]
        if not objects:
            below = ", ".join(f"s3://{self._bucket}/{folder}" for folder in folders[:3])
            raise ModelError(
                f"there are no objects; did you mean {below}?" if below else "it is empty"
            )
        check_weights("it", objects)
        files = [
            RemoteFile(
                name=name,
                size=objects[name]["Size"],
                key=objects[name]["Key"],
                etag=objects[name]["ETag"],
            )
            for name in wanted_files(objects)
        ]
        content = "\n".join(f"{file.name} {file.size} {file.etag}" for file in files)
        return Listing(version=hashlib.sha256(content.encode()).hexdigest(), files=tuple(files))

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
            head = self._client.head_object(**wanted)
        fetch_file(folder / file.name, file.size, read, moved, digest=_digest(head))


def _digest(head: dict[str, Any]) -> tuple[str, str] | None:
    """The ETag is the MD5 of what was put in one part, unless a key of the customer encrypts it."""
    etag = head["ETag"].strip('"')
    customers = head.get("ServerSideEncryption", "AES256") != "AES256" or head.get(
        "SSECustomerAlgorithm"
    )
    return None if customers or not re.fullmatch("[0-9a-f]{32}", etag) else ("md5", etag)


@contextlib.contextmanager
def _our_errors(*, mid_file: bool = False) -> Iterator[None]:
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise ModelError(_explain(error.response)) from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise (
            BrokenTransferError(str(error))
            if mid_file
            else UnreachableError(f"{error}: check the network and AWS_ENDPOINT_URL")
        ) from error
    except exceptions.IncompleteReadError as error:
        raise BrokenTransferError(str(error)) from error
    except ValueError as error:
        raise ModelError(f"{error}: check AWS_ENDPOINT_URL") from error
    except exceptions.BotoCoreError as error:
        raise ModelError(f"{str(error).rstrip('.')}: {_LOGIN}") from error


def _explain(response: dict[str, Any]) -> str:
    found = response.get("Error", {})
    code, message = str(found.get("Code", "")), str(found.get("Message", ""))
    if code in _BAD_LOGINS:
        return f"the credentials are not accepted ({code}): {_LOGIN}"
    match code:
        case "NoSuchBucket":
            return "there is no such bucket: check spec.model.source and AWS_ENDPOINT_URL"
        case "AccessDenied" | "403":
            return "access is denied: the credentials need s3:ListBucket and s3:GetObject there"
        case "NoSuchKey" | "404" | "PreconditionFailed" | "412":
            return "it changed while it was fetched: the next try takes what is there then"
    return f"the store answers {code}: {message}"
