"""Input files are checked line by line, and output lines are OpenAI's."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_gateway.batches.lines import answered, body_of, not_run, read_input
from modelfleet_gateway.batches.objects import Line

CHAT = "/v1/chat/completions"


def line(custom_id: object = "a", **changes: object) -> bytes:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    fields = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | changes
    return json.dumps({k: v for k, v in fields.items() if v is not None}).encode() + b"\n"


def read(*lines: bytes, max_lines: int = 100, max_line_bytes: int = 1000):
    return read_input(lines, CHAT, max_lines=max_lines, max_line_bytes=max_line_bytes)


def test_finds_each_line_where_it_is_in_the_file():
    content = [line("a"), b"\n", line("b"), line("c").rstrip()]
    found = read(*content)
    whole = b"".join(content)
    assert found.errors == []
    assert found.model == "tiny"
    assert [one.custom_id for one in found.lines] == ["a", "b", "c"]
    for one in found.lines:
        text = json.loads(whole[one.offset : one.offset + one.length])
        assert text["custom_id"] == one.custom_id


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{not JSON\n", "invalid_json_line", None),
        (b"[1]\n", "invalid_json_line", None),
        (b"\xff\xfe\n", "invalid_json_line", None),
        (b"[" * 900 + b"\n", "invalid_json_line", None),
        (line("first"), "duplicate_custom_id", "custom_id"),
        (line(None), "missing_required_parameter", "custom_id"),
        (line(""), "missing_required_parameter", "custom_id"),
        (line(7), "missing_required_parameter", "custom_id"),
        (line("x" * 257), "invalid_value", "custom_id"),
        (line("\ud800"), "invalid_value", "custom_id"),
        (line("b", method="GET"), "invalid_method", "method"),
        (line("b", url="/v1/embeddings"), "mismatched_url", "url"),
        (line("b", body=None), "missing_required_parameter", "body"),
        (line("b", body={}), "missing_required_parameter", "body.model"),
        (line("b", body={"model": "other"}), "mismatched_model", "body.model"),
        (line("b", body={"model": "tiny", "stream": True}), "invalid_value", "body.stream"),
        (line("b", body={"model": "tiny", "x": "y" * 1000}), "line_too_long", None),
    ],
)
def test_says_which_line_is_wrong_and_why(bad: bytes, code: str, param: str | None):
    found = read(line("first"), bad)
    (error,) = found.errors
    assert (error["line"], error["code"], error["param"]) == (2, code, param)
    assert len(error["message"]) < 300


def test_counts_lines_and_tells_a_hundred_errors_at_most():
    assert read().errors[0]["code"] == "empty_file"
    assert read(b"\n", b"  \n").errors[0]["code"] == "empty_file"
    (error,) = read(line("a"), line("b"), line("c"), line("d"), max_lines=2).errors
    assert (error["code"], error["line"]) == ("too_many_lines", 3)
    assert len(read(*[b"x\n"] * 500).errors) == 100


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_any_bytes_are_read_without_an_exception(lines: list[bytes]):
    found = read(*lines)
    assert found.errors or found.lines


def test_output_lines_are_those_of_openai():
    one = Line(number=4, custom_id='"quoted"', offset=0, length=1)
    result = answered("batch_ab", 3, one, status=200, request_id="ab-4", body=b'{"id":"x"}')
    assert (result.batch, result.fence, result.number, result.succeeded) == ("batch_ab", 3, 4, True)
    assert json.loads(result.line) == {
        "id": "batch_req_ab-4",
        "custom_id": '"quoted"',
        "response": {"status_code": 200, "request_id": "ab-4", "body": {"id": "x"}},
        "error": None,
    }
    refused = answered("batch_ab", 3, one, status=400, request_id="ab-4", body=b'{\n"error":{}}')
    assert not refused.succeeded
    assert refused.line.count(b"\n") == 1
    assert json.loads(not_run("batch_ab", 4, "c", code="batch_expired", message="late")) == {
        "id": "batch_req_ab-4",
        "custom_id": "c",
        "response": None,
        "error": {"code": "batch_expired", "message": "late"},
    }


def test_a_line_is_run_with_the_body_that_it_has():
    body = {"model": "tiny", "seed": 2**63, "top_p": 0.1, "messages": ["ä"]}
    assert json.loads(body_of(line("a", body=body))) == body
