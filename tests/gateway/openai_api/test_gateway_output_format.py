"""What clients say that the answer be held to becomes the worker's OutputFormat."""

from __future__ import annotations

import json

import pytest

from modelfleet_gateway.errors import InvalidRequestError
from modelfleet_gateway.openai_api.bulk import Bulk, cut
from modelfleet_gateway.openai_api.chat import ChatRequest
from modelfleet_gateway.openai_api.completions import CompletionRequest
from modelfleet_gateway.openai_api.fields import GenerationFields, read_request
from modelfleet_gateway.openai_api.output_format import read_format
from modelfleet_proto import worker_pb2

SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"z": {"type": "integer", "maximum": 9007199254740991}, "é": {"default": 1}},
}
NAMED = {"name": "n", "schema": SCHEMA}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "m", "prompt": ["a", "b"]}


def sent(body: dict, kind: type[GenerationFields] = ChatRequest) -> worker_pb2.GenerateRequest:
    asked = read_request(kind, bytearray(json.dumps(body).encode()), 0.0)
    requests = [worker_pb2.GenerateRequest.FromString(prompt) for prompt in asked.prompts]
    assert len({r.output_format.SerializeToString() for r in requests}) == 1
    assert all(
        asked.needs == ({"output_format"} if r.HasField("output_format") else set())
        for r in requests
    )
    return requests[0]


@pytest.mark.parametrize("strict", [{}, {"strict": True}, {"strict": False}, {"strict": None}])
@pytest.mark.parametrize(("kind", "body"), [(ChatRequest, CHAT), (CompletionRequest, TEXT)])
def test_a_schema_is_sent_as_it_came_whether_strict_or_not(kind, body, strict):
    wanted = {"type": "json_schema", "json_schema": NAMED | strict}
    found = sent(body | {"response_format": wanted}, kind).output_format.json_schema
    assert json.loads(found) == SCHEMA
    assert list(json.loads(found)["properties"]) == ["z", "é"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {}}, None),
        ({"structured_outputs": {"json": None, "disable_any_whitespace": True}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        ({"structured_outputs": {"json_object": True}}, {"json_object": True}),
        ({"structured_outputs": {"json": {"type": "null"}}}, {"json_schema": '{"type":"null"}'}),
        ({"structured_outputs": {"json": '{"a": 1}'}}, {"json_schema": '{"a": 1}'}),
        ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["a", 'b"']}}, {"grammar": 'start: "a" | "b\\""'}),
        ({"guided_json": {"type": "null"}}, {"json_schema": '{"type":"null"}'}),
        ({"guided_regex": "[ab]"}, {"regex": "[ab]"}),
        ({"guided_choice": ["yes", "no"]}, {"grammar": 'start: "yes" | "no"'}),
        ({"guided_grammar": "start: X\nX: /a/"}, {"grammar": "start: X\nX: /a/"}),
    ],
)
def test_each_form_becomes_the_workers(asked, expected):
    request = sent(CHAT | asked)
    assert request.HasField("output_format") == (expected is not None)
    if expected is not None:
        assert request.output_format == worker_pb2.OutputFormat(**expected)


def test_the_flat_form_of_other_apis_is_read_too():
    flat = read_format({"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}, "f")
    assert flat is not None
    assert json.loads(flat.json_schema) == SCHEMA


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"response_format": []}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "schema": 1}}, "response_format.schema"),
        ({"guided_json": 3}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_choice": ["a", ""]}, "guided_choice.1"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"guided_json": {"const": float("inf")}}, "guided_json"),
    ],
)
def test_what_is_wrong_is_named(asked, param):
    with pytest.raises(InvalidRequestError) as error:
        sent(CHAT | asked)
    assert error.value.param == param


def test_long_strings_of_a_schema_in_a_large_body_are_put_back():
    long, name = "é" * 400, "k" * 300
    schema = {"properties": {name: {"enum": [long, 'a "quote"\n' * 100]}}}
    body = CHAT | {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    cutting = cut(bytearray(json.dumps(body).encode()))
    bulk: Bulk | None = None
    while bulk is None:
        try:
            next(cutting)
        except StopIteration as done:
            bulk = done.value
    assert len(bulk.spans) == 3
    [prompt] = read_request(ChatRequest, bulk.skeleton, 0.0, bulk).prompts
    found = worker_pb2.GenerateRequest.FromString(prompt).output_format.json_schema
    assert json.loads(found) == schema
