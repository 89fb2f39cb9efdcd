"""The keys of prompts: equal where a cache would have something in common."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_gateway.openai_api.bulk import Bulk, cut
from modelfleet_gateway.openai_api.chat import ChatRequest
from modelfleet_gateway.openai_api.completions import CompletionRequest
from modelfleet_gateway.openai_api.fields import read_request, session_of
from modelfleet_gateway.routing.prefixes import (
    CUTS,
    LONGEST,
    CachedPrefixes,
    PromptKeys,
    choice_keys,
    read_keys,
)
from modelfleet_proto import worker_pb2

SYSTEM = ("system", "You are a helpful assistant. " * 40)


def chat(*messages: tuple[str, str], session: str = "", salt: str = "") -> PromptKeys:
    """As a chat of these (role, content) has them, read as clients send it."""
    body = ChatRequest(
        model="m", messages=[{"role": role, "content": content} for role, content in messages]
    ).model_dump_json(exclude_unset=True)
    (prompt,) = read_request(ChatRequest, bytearray(body.encode()), 0.0).prompts
    return read_keys(prompt, session=session, salt=salt)


def matched(first: PromptKeys, second: PromptKeys) -> int:
    """Bytes of the second that a worker which has read the first has."""
    read = CachedPrefixes()
    read.note(first)
    return read.matched(second)


def test_the_next_turn_has_all_of_the_last_one():
    first = chat(SYSTEM, ("user", "a " * 600))
    second = chat(SYSTEM, ("user", "a " * 600), ("assistant", "b"), ("user", "c"))
    assert matched(first, second) == CUTS[len(first.cuts) - 1] > 2000
    assert second.opening == first.opening


def test_another_conversation_has_the_system_prompt_and_another_opening():
    first, other = chat(SYSTEM, ("user", "hello")), chat(SYSTEM, ("user", "good morning"))
    assert 1000 < matched(first, other) <= len(SYSTEM[1]) + 32
    assert other.opening != first.opening


def test_short_chats_have_an_opening_too():
    assert chat(("user", "a")).opening != chat(("user", "b")).opening
    assert chat(("user", "a")).cuts == ()
    follows = chat(("user", "a"), ("assistant", "x"), ("user", "y"))
    assert follows.opening == chat(("user", "a")).opening


def test_tenants_share_no_key():
    asked = SYSTEM, ("user", "hello")
    one, other = chat(*asked, session="s", salt="a"), chat(*asked, session="s", salt="b")
    assert matched(one, other) == 0
    assert one.opening != other.opening
    assert one.session != other.session


def test_what_differs_by_choice_and_seed_is_no_part_of_it():
    def keys(**more):
        body = CompletionRequest(model="m", prompt="word " * 300, **more).model_dump_json(
            exclude_unset=True
        )
        asked = read_request(CompletionRequest, bytearray(body.encode()), 0.0)
        return choice_keys(asked.prompts, asked.choices_per_prompt)

    assert len(keys(n=3)) == 3
    assert keys(n=3, temperature=0.5, seed=4)[2] == keys()[0]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatRequest, {"messages": [{"role": "user", "content": "word " * 20_000}]}),
        (CompletionRequest, {"prompt": "word " * 20_000}),
        (CompletionRequest, {"prompt": list(range(30_000))}),
    ],
)
def test_a_large_body_has_the_keys_that_it_would_have_as_a_small_one(kind, fields):
    body = bytearray(kind(model="m", **fields).model_dump_json(exclude_unset=True).encode())
    bulk = whole(cut(body))
    (large,) = read_request(kind, bulk.skeleton, 0.0, bulk).prompts
    (small,) = read_request(kind, body, 0.0).prompts
    # Ids come in pieces of a large body: as far as the first of them.
    assert len(read_keys(small).cuts) == len(read_keys(large).cuts) > 20
    assert read_keys(large).cuts[:20] == read_keys(small).cuts[:20]


def whole(work) -> Bulk:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=900))),
    st.binary(max_size=40),
)
@settings(max_examples=50, deadline=None)
def test_reads_every_serialized_chat_and_survives_anything_else(messages, rest):
    request = worker_pb2.GenerateRequest(seed=2**60)
    for role, content in messages:
        request.chat.messages.add(role=role, content=content)
    request.chat.add_generation_prompt = True
    keys = read_keys(request.SerializeToString())
    assert keys.size == request.chat.ByteSize()
    assert len(keys.cuts) == sum(cut <= keys.size for cut in CUTS)
    assert read_keys(worker_pb2.GenerateRequest(request_id="r").SerializeToString() + rest) == (
        PromptKeys(0)
    )


def test_hashes_no_more_than_the_beginning():
    prompt = worker_pb2.GenerateRequest(prompt="a" * 10 * LONGEST).SerializeToString()
    keys = read_keys(prompt)
    assert (keys.size, len(keys.cuts)) == (10 * LONGEST, len(CUTS))


def test_a_worker_is_known_for_what_it_read_last():
    read = CachedPrefixes(most=8)
    old, new = chat(("user", "a" * 1300)), chat(("user", "b" * 1300))
    read.note(old)
    read.note(new)
    assert read.matched(new) == CUTS[len(new.cuts) - 1]
    assert 0 < read.matched(old) < CUTS[len(old.cuts) - 1], "the longest beginnings go first"
    read.clear()
    assert read.matched(new) == 0


@pytest.mark.parametrize(
    ("fields", "session"),
    [
        (None, ""),
        ({"user": "u", "prompt_cache_key": "k", "safety_identifier": "s"}, "k"),
        ({"user": "u", "safety_identifier": "s"}, "u"),
        ({"user": 7, "safety_identifier": "s"}, "s"),
        ({"metadata": {"user_id": "a"}}, "a"),
        ({"metadata": "a"}, ""),
    ],
)
def test_what_a_client_says_that_a_request_belongs_to(fields, session):
    assert session_of(fields, None) == session
