"""Uploads: multipart forms with one file, which goes to the disk as it comes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from ..errors import (
    FileTooLargeError,
    InvalidRequestError,
    UnsupportedMediaTypeError,
    quoted,
)

PIECE: Final = 256 * 1024  # bytes that are written at once
FORM_BYTES: Final = 64 * 1024  # of all that is not the file
FIELD_BYTES: Final = 1024  # of one field
MAX_PARTS: Final = 16
MAX_FILENAME: Final = 255  # characters
UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(slots=True)
class Form:
    """What was uploaded beside the file's content."""

    filename: str = ""
    has_file: bool = False
    fields: dict[str, str] = field(default_factory=dict[str, str])


class FormReader:
    """Parses a form piece by piece; what comes of the file waits in `unwritten`."""

    def __init__(self, boundary: bytes, max_file_bytes: int) -> None:
        self.form = Form()
        self.unwritten = bytearray()
        self._most = max_file_bytes
        self.file_bytes = 0
        self._parts = 0
        self._name = ""
        self._is_file = False
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._text = bytearray()
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        """InvalidRequestError, FileTooLargeError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequestError(f"The form is malformed: {error}") from None

    def finish(self) -> Form:
        """The whole form; InvalidRequestError if it is not whole."""
        if not self._ended:
            raise InvalidRequestError("The form ends before its last part does.")
        if not self.form.has_file:
            raise InvalidRequestError("Expected a file.", param="file")
        return self.form

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequestError(f"The form has more than {MAX_PARTS} parts.")
        self._disposition = self._header = self._value = b""
        self._text.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")[:MAX_FILENAME]
        self._is_file = b"filename" in options
        if not self._is_file:
            return
        if self._name != "file" or self.form.has_file:
            raise InvalidRequestError("Expected one file, in the part `file`.", param="file")
        self.form.has_file = True
        filename = options[b"filename"].decode("utf-8", "replace")
        self.form.filename = UNSAFE.sub("", filename)[:MAX_FILENAME] or "file"

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._text += data[start:end]
            if len(self._text) > FIELD_BYTES:
                raise InvalidRequestError(
                    f"Expected {FIELD_BYTES} bytes at most.", param=self._name
                )
            return
        self.file_bytes += end - start
        if self.file_bytes > self._most:
            raise too_large(self._most)
        self.unwritten += data[start:end]

    def _on_part_end(self) -> None:
        if not self._is_file:
            self.form.fields[self._name] = self._text.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._ended = True


def form_reader(request: Request, max_file_bytes: int) -> FormReader:
    """For this request; UnsupportedMediaTypeError, FileTooLargeError by what its headers say."""
    given = request.headers.get("content-type", "")
    kind, options = parse_options_header(given)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise UnsupportedMediaTypeError(
            f"Expected the content-type multipart/form-data, found {quoted(given)}."
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError(
            f"Expected no content-encoding of an upload, found {quoted(encoding)}."
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_file_bytes + FORM_BYTES:
        raise too_large(max_file_bytes)
    return FormReader(options[b"boundary"], max_file_bytes)


async def pieces(request: Request, reader: FormReader) -> AsyncIterator[bytearray]:
    """The file's content; at most PIECE and one chunk of the network are held."""
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        reader.feed(chunk)
        if total - reader.file_bytes > FORM_BYTES:
            raise InvalidRequestError(f"The form has over {FORM_BYTES} bytes beside its file.")
        if len(reader.unwritten) >= PIECE:
            yield reader.unwritten
            reader.unwritten = bytearray()
    if reader.unwritten:
        yield reader.unwritten


def too_large(max_file_bytes: int) -> FileTooLargeError:
    """The 413."""
    return FileTooLargeError(
        f"The file is larger than {max_file_bytes} bytes, the most that this gateway keeps.",
        param="file",
    )
