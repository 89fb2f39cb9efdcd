"""Every field of a request that can be wrong is refused in words."""

import math

import pytest

from modelfleet_proto import worker_pb2 as pb
from modelfleet_worker.engine.messages import SamplingParams
from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.requests import ChatPrompt, read_request
from modelfleet_worker.text.tokenizer import Message

VOCAB = 100


def request(**fields) -> pb.GenerateRequest:
    if not fields.keys() & {"prompt", "prompt_token_ids", "chat"}:
        fields["prompt"] = "Hello"
    return pb.GenerateRequest(**fields)


def chat(*roles: str) -> pb.Chat:
    return pb.Chat(messages=[pb.ChatMessage(role=role, content="hi") for role in roles])


def sampling(**fields) -> pb.Sampling:
    return pb.Sampling(**({"top_p": 1.0} | fields))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param({"prompt": ""}, "prompt is empty", id="empty prompt"),
        pytest.param({"prompt_token_ids": pb.TokenIds()}, "at least one id", id="no ids"),
        pytest.param(
            {"prompt_token_ids": pb.TokenIds(ids=[1, 100])},
            r"prompt_token_ids\[1\] is 100, but the vocabulary has 100",
            id="id out of the vocabulary",
        ),
        pytest.param({"chat": pb.Chat()}, "at least one message", id="empty chat"),
        pytest.param({"chat": chat("user", "robot")}, r"messages\[1\].role.*'robot'", id="role"),
        pytest.param({"chat": chat("")}, "role", id="no role"),
        pytest.param({"sampling": sampling(temperature=-0.5)}, "found -0.5", id="temperature"),
        pytest.param({"sampling": sampling(temperature=math.nan)}, "nan", id="temperature NaN"),
        pytest.param({"sampling": sampling(temperature=math.inf)}, "inf", id="temperature inf"),
        pytest.param({"sampling": sampling(top_p=0.0)}, "above 0 and at most 1", id="top_p 0"),
        pytest.param({"sampling": sampling(top_p=1.5)}, "found 1.5", id="top_p above 1"),
        pytest.param({"sampling": sampling(top_p=math.nan)}, "nan", id="top_p NaN"),
        pytest.param({"logprobs": pb.Logprobs(enabled=True, top=21)}, "at most 20", id="top 21"),
        pytest.param({"stop": pb.StopConditions(strings=[""])}, "1 to 1024", id="empty stop"),
        pytest.param(
            {"stop": pb.StopConditions(strings=["x" * 1025])}, "found 1025", id="long stop"
        ),
        pytest.param({"stop": pb.StopConditions(strings=["x"] * 17)}, "found 17", id="17 stops"),
        pytest.param(
            {"stop": pb.StopConditions(token_ids=[100])}, "stop.token_ids", id="stop id unknown"
        ),
        pytest.param(
            {"stop": pb.StopConditions(token_ids=[1] * 257)}, "at most 256", id="257 stop ids"
        ),
        pytest.param({"created": math.nan}, "created", id="created NaN"),
        pytest.param({"created": 1e300}, "created", id="created beyond all years"),
        pytest.param({"created": -1.0}, "created", id="created before the epoch"),
        pytest.param({"request_id": "x" * 257}, "request_id", id="long id"),
        pytest.param(
            {"resume": pb.Resume(token_ids=[100])}, "resume.token_ids", id="resumed id unknown"
        ),
    ],
)
def test_says_which_field_is_wrong_and_what_was_found(wrong: dict, message: str):
    with pytest.raises(InvalidRequestError, match=message):
        read_request(request(**wrong), VOCAB)


def test_a_request_without_input_is_refused():
    with pytest.raises(InvalidRequestError, match="expected a prompt"):
        read_request(pb.GenerateRequest(), VOCAB)


def test_an_absent_sampling_is_greedy():
    assert read_request(request(), VOCAB).sampling == SamplingParams()


def test_a_temperature_near_zero_is_greedy_instead_of_an_overflow():
    asked = read_request(request(sampling=sampling(temperature=1e-30)), VOCAB)
    assert asked.sampling.temperature == 0


def test_every_field_arrives():
    asked = read_request(
        request(
            request_id="r",
            chat=pb.Chat(
                messages=[pb.ChatMessage(role="user", content="é", name="ann")],
                add_generation_prompt=True,
            ),
            sampling=sampling(temperature=0.5, top_k=3, top_p=0.25),
            stop=pb.StopConditions(
                max_tokens=5, strings=["a", "b"], token_ids=[7], ignore_eos=True
            ),
            logprobs=pb.Logprobs(enabled=True, top=2),
            seed=2**64 - 1,
            choice=3,
            created=5.0,
            resume=pb.Resume(token_ids=[1, 2], model_digest="d"),
        ),
        VOCAB,
    )
    assert asked.prompt == ChatPrompt((Message("user", "é", "ann"),), True)
    assert asked.prompt_bytes == 2
    assert asked.sampling == SamplingParams(
        temperature=0.5, top_k=3, top_p=0.25, seed=2**64 - 1, choice=3, logprobs=2
    )
    assert (asked.max_tokens, asked.stop_strings, asked.stop_token_ids) == (5, ("a", "b"), {7})
    assert (asked.ignore_eos, asked.created, asked.request_id) == (True, 5.0, "r")
    assert (asked.resumed_ids, asked.resumed_digest) == ((1, 2), "d")
