"""A large body, cut before it is parsed, asks for what it would ask for if it were small."""

import json
import re
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_gateway.errors import InvalidRequestError
from modelfleet_gateway.openai_api.bulk import (
    BULKY,
    BULKY_IDS,
    MAX_IDS,
    MAX_VALUES,
    PIECE,
    Bulk,
    cut,
)
from modelfleet_gateway.openai_api.chat import ChatRequest
from modelfleet_gateway.openai_api.completions import CompletionRequest
from modelfleet_gateway.openai_api.fields import GenerationFields, read_request
from modelfleet_proto import worker_pb2

LETTERS = st.sampled_from(["a", '"', "\\", "\n", "é", "漢", "🙂", "\x7f", "u", "[", "{", ",", "1"])
TEXTS = st.builds(
    lambda text, times: text * times, st.text(LETTERS), st.sampled_from([1, 9, 700, 20_000])
)
IDS = st.builds(
    lambda ids, times: ids * times,
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5),
    st.sampled_from([1, 50, 20_000]),
)
CONTENTS = TEXTS | st.lists(TEXTS.map(lambda text: {"type": "text", "text": text}), max_size=3)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": CONTENTS}, optional={"name": TEXTS}),
    min_size=1,
    max_size=3,
)
PROMPTS = (
    TEXTS | IDS | st.lists(TEXTS, min_size=1, max_size=3) | st.lists(IDS, min_size=1, max_size=3)
)
EXTRAS = st.fixed_dictionaries(
    {}, optional={"unheard_of": CONTENTS | IDS, "stop": st.just(["s" * 300]), "echo": TEXTS}
)


def through(work: Generator[None, None, Bulk]) -> tuple[Bulk, int]:
    """What a generator returns, and the number of its slices."""
    slices = 1
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value, slices
        slices += 1


def outcome(kind: type[GenerationFields], body: bytes, *, is_cut: bool) -> Any:
    """The requests, or the error."""
    try:
        if is_cut:
            bulk, _ = through(cut(bytearray(body)))
            asked = read_request(kind, bulk.skeleton, 1.5, bulk)
        else:
            asked = read_request(kind, bytearray(body), 1.5)
    except InvalidRequestError as error:
        return (error.code, error.param)
    return asked.model, [worker_pb2.GenerateRequest.FromString(prompt) for prompt in asked.prompts]


@pytest.mark.parametrize("is_ascii", [True, False])
@settings(deadline=None, max_examples=40)
@given(messages=MESSAGES, prompt=PROMPTS, extra=EXTRAS, spaces=st.sampled_from([None, 2]))
def test_cut_or_not_it_is_the_same_request(is_ascii, messages, prompt, extra, spaces):
    for kind, input_ in (
        (ChatRequest, {"messages": messages}),
        (CompletionRequest, {"prompt": prompt}),
    ):
        asked = {"model": "tiny", "seed": 7, **input_, **extra}
        body = json.dumps(asked, ensure_ascii=is_ascii, indent=spaces).encode()
        assert outcome(kind, body, is_cut=True) == outcome(kind, body, is_cut=False)


LONG = "x" * 2 * BULKY
MANY = ",".join(["1"] * BULKY_IDS)


@pytest.mark.parametrize(
    "body",
    [
        f'{{"model": "m", "seed": 7, "prompt": "{LONG}',
        f'{{"model": "m", "seed": 7, "prompt": "{LONG}\n"}}',
        f'{{"model": "m", "seed": 7, "prompt": "{LONG}\\q"}}',
        f'{{"model": "m", "seed": 7, "prompt": "{LONG}\\u12"}}',
        f'{{"model": "m", "seed": 7, "prompt": "{LONG}\\ud800"}}',
        f'{{"model": "m", "seed": 7, "prompt": "{LONG}\\udc00"}}',
        f'{{"model": "m", "seed": 7, "prompt": "{LONG}\\ud83d\\ude00 \\\\ud83d"}}',
        f'{{"model": "m", "seed": 7, "prompt": "{LONG}\udcff"}}',
        f'{{"model": "m", "seed": 7, "prompt": [{MANY},4294967296]}}',
        f'{{"model": "m", "seed": 7, "prompt": [{MANY},{"9" * 5000}]}}',
        f'{{"model": "m", "seed": 7, "prompt": [{MANY},01]}}',
        f'{{"model": "m", "seed": 7, "prompt": [{MANY},-1]}}',
        f'{{"model": "m", "seed": 7, "prompt": [{MANY},1.5]}}',
        f'{{"model": "m", "seed": 7, "prompt": [{MANY},true]}}',
        f'{{"model": "m", "seed": 7, "prompt": [{MANY},]}}',
        f'{{"model": "m", "seed": 7, "prompt": [{MANY}',
        f'{{"model": "m", "seed": 7, "prompt": [[{MANY}], "text"]}}',
        f'{{"model": "m", "seed": 7, "prompt": [[{MANY}], [1]]}}',
        f'{{"model": "m", "seed": 7, "prompt": ["{LONG}", [1]]}}',
        f'{{"model": [{MANY}], "prompt": "p"}}',
        f'{{"model": "m", "seed": 7, "prompt": "p", "stop": [[{MANY}]]}}',
        f'{{"model": "m", "seed": 7, "prompt": "p", "stop": "{"s" * 5000}"}}',
        f'{{"model": "m", "seed": 7, "prompt": "p", "stop_token_ids": [{MANY}]}}',
        f'{{"model": "m", "seed": 7, "prompt": "p", "temperature": "{LONG}"}}',
        f'{{"model": "m", "seed": 7, "prompt": "p", "{LONG}": 1}}',
        f'{{"{LONG}": 1}}',
        f'"{LONG}"',
        f'{{"model": "m" "prompt": "{LONG}"}}',
    ],
)
def test_what_is_wrong_with_it_is_wrong_either_way(body: str):
    raw = body.encode("utf-8", "surrogateescape")
    of_parts = outcome(CompletionRequest, raw, is_cut=True)
    assert of_parts == outcome(CompletionRequest, raw, is_cut=False)


def test_a_list_of_ids_is_no_text():
    body = f'{{"model": "m", "messages": [{{"role": "user", "content": [{MANY}]}}]}}'.encode()
    assert outcome(ChatRequest, body, is_cut=True) == ("invalid_value", "messages.0.content")


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b'\\"' * 4_000_000,
        b'"' + b"x" * 8_000_000 + b'"',
        b" " * 8_000_000,
        b"[" + b"1," * 1_000_000 + b"1]",
        b"[" + b"1 , " * 1_000_000 + b"1]",
        b'{"a":' + b"9" * 8_000_000,
        b'["a' + b'","a' * 60_000 + b'"]',
    ],
)
def test_its_slices_are_short(body: bytes):
    """Each works on a bounded number of bytes and values."""
    try:
        _, slices = through(cut(bytearray(body)))
    except InvalidRequestError:
        return
    assert slices >= len(body) / PIECE / 2


@pytest.mark.parametrize(
    "body", [b"[" * 9**7, b"{" * 9**7, b"[]," * 9**7, b'"",' * 9**6, b'"a"' * 9**6, b"[[1]," * 9**6]
)
def test_values_are_bounded(body: bytes):
    with pytest.raises(InvalidRequestError, match=f"more than {MAX_VALUES} values"):
        through(cut(bytearray(body)))


def test_ids_are_bounded():
    lists = b",".join([b"[" + b"7," * 9999 + b"7]"] * (MAX_IDS // 10_000 + 1))
    with pytest.raises(InvalidRequestError, match=f"more than {MAX_IDS} token ids"):
        through(cut(bytearray(b"[" + lists + b"]")))


def test_a_placeholder_cannot_be_named():
    """A client that could would have its text multiplied."""
    marks = set()
    for _ in range(3):
        bulk, _ = through(cut(bytearray(f'["{LONG}"]'.encode())))
        (mark,) = re.findall(rb'^\["([0-9a-f]{16})-0-"\]$', bytes(bulk.skeleton))
        marks.add(mark)
    assert len(marks) == 3
