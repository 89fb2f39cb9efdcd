"""Answers in parts, over real gRPC with the real engine: the paced device draws a given text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from typing_extensions import override

from modelfleet_proto import worker_pb2 as pb
from modelfleet_worker.engine.device import FinishedStep, LoadedModel, Runner, SampledToken
from modelfleet_worker.engine.scheduler import Chunk
from modelfleet_worker.loading.device_loaders import Loaded, Loader
from modelfleet_worker.progress import Report
from modelfleet_worker.spec import ModelSpec
from modelfleet_worker.text.output.styles import OutputStyle, find_style
from modelfleet_worker.text.paced import PacedTokenizer
from modelfleet_worker.text.tokenizer import Chat
from tool_templates import GEMMA, HERMES

TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"properties": {"city": {}}}},
    }
]
ANSWER = (
    "<think>\nThe user asks.\n</think>\n\nI look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ålesund", "n": [1, 2]}}'
    '\n</tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'
)


class AnswerTokenizer(PacedTokenizer):
    """Its ids from 1 on are the pieces of one answer, of a model in a certain style."""

    def __init__(self, answer: str, style: OutputStyle, marks: Sequence[str] = ()) -> None:
        super().__init__(4096)
        split = re.findall(
            "|".join([*map(re.escape, marks), r"\s*\w{1,3}|\s*."]), answer, re.DOTALL
        )
        self.pieces = [piece.encode() for piece in split]
        self.style = style
        self.mark_ids = {i + 1: piece for i, piece in enumerate(split) if piece in marks}
        self.digest = hashlib.sha256(answer.encode()).hexdigest()

    @override
    def piece(self, token_id: int) -> bytes:
        return self.pieces[token_id - 1] if 0 < token_id <= len(self.pieces) else b""

    @override
    def text_piece(self, token_id: int, *, first: bool) -> bytes:
        return b"" if token_id in self.mark_ids else self.piece(token_id)

    @override
    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [1, 2, 3]

    @override
    def render_chat(self, chat: Chat) -> str:
        return "prompt"


class AnswerRunner(Runner):
    """Draws the ids of the answer in order, and then the end."""

    def __init__(self, blocks: int, length: int) -> None:
        self.num_blocks, self._length = blocks, length

    @override
    def launch(self, chunks: Sequence[Chunk]) -> FinishedStep:
        done = (c.sequence.num_output_tokens for c in chunks if c.samples)
        return FinishedStep([SampledToken(n + 1 if n < self._length else 0) for n in done])


def answering(loader: Loader, tokenizer: AnswerTokenizer) -> Loader:
    def load(spec: ModelSpec, report: Report) -> Loaded:
        loaded = loader(spec, report)
        model: LoadedModel = loaded.model
        runner = AnswerRunner(model.runner.num_blocks, len(tokenizer.pieces))
        return replace(loaded, tokenizer=tokenizer, model=replace(model, runner=runner))

    return load


def chat(**fields: Any) -> pb.Chat:
    told = {"tools": json.dumps(TOOLS), "takes_parts": True} | fields
    return pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")], **told)


def parts_of(events: Sequence[pb.Tokens | pb.Finished]) -> list[tuple[str, Any]]:
    """Joined, as a client has them."""
    joined: list[list[Any]] = []
    for event in events:
        for part in event.parts:
            kind = part.WhichOneof("part")
            if kind != "tool_call":
                text = getattr(part, kind)
            elif part.tool_call.name:
                joined.append([f"call {part.tool_call.index} {part.tool_call.name}", ""])
                kind, text = joined[-1][0], part.tool_call.arguments
            else:
                kind, text = joined[-1][0], part.tool_call.arguments
            if joined and joined[-1][0] == kind:
                joined[-1][1] += text
            else:
                joined.append([kind, text])
    return [(kind, text) for kind, text in joined]


WHOLE = [
    ("reasoning", "The user asks."),
    ("text", "I look."),
    ("call 0 get_weather", '{"city": "Ålesund", "n": [1, 2]}'),
    ("call 1 get_weather", "{}"),
]


@pytest.fixture
async def hermes(start_worker, paced):
    tokenizer = AnswerTokenizer(ANSWER, find_style(HERMES))
    return await (await start_worker(answering(paced(), tokenizer))).ready()


async def test_an_answer_comes_in_parts(hermes):
    reply = await hermes.generate(chat=chat())
    assert reply.text == ""
    assert parts_of([*reply.tokens, reply.finished]) == WHOLE
    assert reply.finished.reason == pb.FINISH_REASON_STOP


async def test_a_resumed_stream_sends_the_parts_that_an_undisturbed_one_would(hermes):
    whole = await hermes.generate(chat=chat())
    digest = whole.accepted.model_digest
    parts = [part for event in [*whole.tokens, whole.finished] for part in event.parts]
    for done in range(len(whole.ids)):
        resume = pb.Resume(token_ids=whole.ids[:done], model_digest=digest)
        rest = await hermes.generate(chat=chat(), resume=resume)
        alone = await hermes.generate(
            chat=chat(), stop=pb.StopConditions(token_ids=[whole.ids[done]])
        )
        # What an undisturbed stream has sent by then, without what its end releases.
        before = [part for event in alone.tokens for part in event.parts]
        after = [part for event in [*rest.tokens, rest.finished] for part in event.parts]
        assert parts_of([pb.Tokens(parts=before), pb.Tokens(parts=after)]) == parts_of(
            [pb.Tokens(parts=parts)]
        )


async def test_one_call_ends_the_answer_where_one_was_asked_for(hermes):
    reply = await hermes.generate(chat=chat(tool_choice=pb.ToolChoice(single=True)))
    assert parts_of([*reply.tokens, reply.finished]) == WHOLE[:3]
    assert reply.finished.reason == pb.FINISH_REASON_STOP
    assert reply.finished.completion_tokens < len((await hermes.generate(chat=chat())).ids)


async def test_without_tools_only_the_reasoning_comes_apart(hermes):
    for fields in ({"tools": ""}, {"tool_choice": pb.ToolChoice(mode=pb.ToolChoice.NONE)}):
        reply = await hermes.generate(chat=chat(**fields))
        reasoning, text = parts_of([*reply.tokens, reply.finished])
        assert reasoning == WHOLE[0]
        assert text[0] == "text"
        assert text[1].startswith("I look.\n<tool_call>")


async def test_a_caller_of_the_version_before_gets_one_text(hermes):
    reply = await hermes.generate(chat=chat(tools="", takes_parts=False))
    assert reply.text == ANSWER
    assert not any(tokens.parts for tokens in reply.tokens)


async def test_marks_that_are_special_tokens_are_read_and_are_no_text(start_worker, paced):
    answer = 'Yes.<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>}<tool_call|>'
    marks = ("<|tool_call>", "<tool_call|>", '<|"|>')
    tokenizer = AnswerTokenizer(answer, find_style(GEMMA), marks)
    worker = await (await start_worker(answering(paced(), tokenizer))).ready()
    reply = await worker.generate(chat=chat())
    assert parts_of([*reply.tokens, reply.finished]) == [
        ("text", "Yes."),
        ("call 0 get_weather", '{"city": "Oslo"}'),
    ]
    plain = await worker.generate(chat=chat(tools="", takes_parts=False))
    assert plain.text == "Yes.call:get_weather{city:Oslo}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": "[1"}, "chat.tools is no JSON"),
        ({"tools": "{}"}, "chat.tools is no list"),
        ({"tools": "[{}]"}, r"chat.tools\[0\] is no function with a name"),
        ({"tools": json.dumps(TOOLS * 2)}, "as another one has"),
        ({"template_arguments": "[]"}, "chat.template_arguments is no object"),
        (
            {"tool_choice": pb.ToolChoice(mode=pb.ToolChoice.REQUIRED, name="g")},
            "asks for a call of 'g'",
        ),
    ],
)
async def test_what_is_wrong_with_tools_is_said(hermes, fields, message):
    with pytest.raises(grpc.aio.AioRpcError, match=message) as refused:
        await hermes.generate(chat=chat(**fields))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_tools_of_a_model_whose_calls_nobody_can_read_are_refused(start_worker):
    worker = await (await start_worker()).ready()
    with pytest.raises(grpc.aio.AioRpcError, match="not known how this model writes calls"):
        await worker.generate(chat=chat())
