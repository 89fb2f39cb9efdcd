"""The lines of batches: those that come in are checked, those that go out are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import quoted
from ..openai_api.answer import Json
from .objects import Line, Result

MAX_CUSTOM_ID: Final = 256  # characters
MAX_ERRORS: Final = 100  # of an input file that are told
MAX_MODEL: Final = 512  # characters


class LineError(Exception):
    """What is wrong with a line."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    def body(self, number: int | None) -> Json:
        """As a batch's `errors` has it; lines count from 1."""
        line = None if number is None else number + 1
        return {"code": self.code, "line": line, "message": self.message, "param": self.param}


@dataclass(slots=True)
class InputFile:
    """What was found in an input file: its lines, or what is wrong with it."""

    lines: list[Line] = field(default_factory=list[Line])
    model: str | None = None
    errors: list[Json] = field(default_factory=list[Json])


def read_input(
    content: Iterable[bytes], endpoint: str, *, max_lines: int, max_line_bytes: int
) -> InputFile:
    """Checks all lines. `content`: with their ends; one that is longer than the limit may be cut.

    Empty lines are passed over.
    """
    found, offset, ids = InputFile(), 0, set[bytes]()
    for number, text in enumerate(content):
        start, offset = offset, offset + len(text)
        if not text.strip():
            continue
        try:
            if len(text) > max_line_bytes:
                raise LineError("line_too_long", f"A line may have {max_line_bytes} bytes at most.")
            if len(found.lines) == max_lines:
                raise LineError("too_many_lines", f"A batch may have {max_lines} lines at most.")
            custom_id, model = check_line(text, endpoint)
            key = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
            if key in ids:
                raise LineError(
                    "duplicate_custom_id",
                    f"The custom_id {quoted(custom_id)} is that of another line, too.",
                    "custom_id",
                )
            ids.add(key)
            found.model = found.model or model
            if model != found.model:
                raise LineError(
                    "mismatched_model",
                    f"All lines of a batch are for one model: expected {quoted(found.model)}, "
                    f"found {quoted(model)}.",
                    "body.model",
                )
            found.lines.append(
                Line(number=number, custom_id=custom_id, offset=start, length=len(text))
            )
        except LineError as error:
            found.errors.append(error.body(number))
            # What follows a cut line is no line.
            if len(found.errors) == MAX_ERRORS or error.code in ("line_too_long", "too_many_lines"):
                break
    if not found.lines and not found.errors:
        empty = LineError("empty_file", "The input file has no lines.")
        found.errors.append(empty.body(None))
    return found


def check_line(text: bytes, endpoint: str) -> tuple[str, str]:
    """Its custom_id and its model; LineError says what is wrong."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        raise LineError("invalid_json_line", "The line is no JSON.") from None
    if not isinstance(line, dict):
        raise LineError("invalid_json_line", "The line is no JSON object.")
    custom_id = _text(line, "custom_id", MAX_CUSTOM_ID)
    method = _text(line, "method", MAX_CUSTOM_ID)
    if method != "POST":
        raise LineError("invalid_method", f"Expected POST, found {quoted(method)}.", "method")
    url = _text(line, "url", MAX_CUSTOM_ID)
    if url != endpoint:
        raise LineError(
            "mismatched_url",
            f"All lines are for the batch's endpoint: expected {endpoint}, found {quoted(url)}.",
            "url",
        )
    body = line.get("body")
    if not isinstance(body, dict):
        raise LineError("missing_required_parameter", "Expected a JSON object.", "body")
    if body.get("stream"):
        raise LineError("invalid_value", "Lines of batches are not streamed.", "body.stream")
    return custom_id, _text(body, "model", MAX_MODEL, "body.model")


def _text(fields: dict[str, Any], name: str, longest: int, param: str = "") -> str:
    found = fields.get(name)
    if not isinstance(found, str) or not found:
        raise LineError("missing_required_parameter", "Expected some text.", param or name)
    if len(found) > longest:
        raise LineError("invalid_value", f"Expected {longest} characters at most.", param or name)
    try:
        found.encode()
    except UnicodeEncodeError:
        raise LineError("invalid_value", "Expected Unicode text.", param or name) from None
    return found


def body_of(text: bytes) -> bytes:
    """The request of a line that was checked."""
    return json.dumps(json.loads(text)["body"], separators=(",", ":")).encode()


def answered(
    batch: str, fence: int, line: Line, *, status: int, request_id: str, body: bytes
) -> Result:
    """The result of a line that was answered with this status and JSON."""
    if b"\n" in body:
        body = json.dumps(json.loads(body), separators=(",", ":")).encode()
    head = json.dumps({"status_code": status, "request_id": request_id})[:-1]
    response = b"".join([head.encode(), b', "body": ', body, b"}"])
    text = _output_line(batch, line.number, line.custom_id, response, b"null")
    return Result(batch=batch, fence=fence, number=line.number, succeeded=status == 200, line=text)


def not_run(batch: str, number: int, custom_id: str, *, code: str, message: str) -> bytes:
    """The line in the error file of one that was not run."""
    error = json.dumps({"code": code, "message": message}).encode()
    return _output_line(batch, number, custom_id, b"null", error)


def _output_line(batch: str, number: int, custom_id: str, response: bytes, error: bytes) -> bytes:
    head = json.dumps({"id": f"batch_req_{request_id(batch, number)}", "custom_id": custom_id})
    parts = [head[:-1].encode(), b', "response": ', response, b', "error": ', error, b"}\n"]
    return b"".join(parts)


def request_id(batch: str, number: int) -> str:
    """The same whenever and wherever the line runs."""
    return f"{batch.removeprefix('batch_')}-{number}"
