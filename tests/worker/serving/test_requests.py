"""Every field of a request that can be wrong is refused in words."""

import math

import pytest

from modelfleet_proto import worker_pb2 as pb
from modelfleet_worker.engine.request import SamplingParams
from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.models.generation_config import SamplingDefaults
from modelfleet_worker.serving.chats import ChatPrompt
from modelfleet_worker.serving.requests import read_request
from modelfleet_worker.text.tokenizer import Chat, Message

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
        pytest.param({"cache_salt": "s" * 257}, "cache_salt is longer", id="cache salt"),
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
        pytest.param({"sampling": sampling(min_p=1.5)}, "min_p must be from 0 to 1", id="min_p"),
        pytest.param({"sampling": sampling(min_p=math.nan)}, "min_p.*nan", id="min_p NaN"),
        pytest.param(
            {"sampling": sampling(repetition_penalty=0.05)},
            "repetition_penalty must be from 0.0625 to 16, found 0.05",
            id="tiny repetition penalty",
        ),
        pytest.param(
            {"sampling": sampling(repetition_penalty=-1)}, "found -1", id="repetition penalty"
        ),
        pytest.param(
            {"sampling": sampling(presence_penalty=2.5)},
            "presence_penalty must be from -2 to 2",
            id="presence penalty",
        ),
        pytest.param(
            {"sampling": sampling(frequency_penalty=-math.inf)}, "found -inf", id="frequency"
        ),
        pytest.param(
            {"sampling": sampling(logit_bias={99: 1, 100: 1})},
            "logit_bias names token 100, but the vocabulary has 100",
            id="biased id unknown",
        ),
        pytest.param(
            {"sampling": sampling(logit_bias={7: 100.5})},
            r"logit_bias\[7\] must be from -100 to 100, found 100.5",
            id="large bias",
        ),
        pytest.param(
            {"sampling": sampling(logit_bias={7: math.nan})}, r"logit_bias\[7\].*nan", id="bias NaN"
        ),
        pytest.param(
            {"sampling": sampling(logit_bias=dict.fromkeys(range(301), 1.0))},
            "at most 300 tokens, found 301",
            id="301 biased tokens",
        ),
        pytest.param({"logprobs": pb.Logprobs(enabled=True, top=21)}, "at most 20", id="top 21"),
        pytest.param({"stop": pb.StopConditions(strings=[""])}, "1 to 4096", id="empty stop"),
        pytest.param(
            {"stop": pb.StopConditions(strings=["x" * 4097])}, "found 4097", id="long stop"
        ),
        pytest.param({"stop": pb.StopConditions(strings=["x"] * 17)}, "found 17", id="17 stops"),
        pytest.param(
            {"stop": pb.StopConditions(token_ids=[100])}, "stop.token_ids", id="stop id unknown"
        ),
        pytest.param(
            {"stop": pb.StopConditions(token_ids=[1] * 1025)}, "at most 1024", id="1,025 stop ids"
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


def test_absent_options_of_an_older_gateway_are_off():
    older = pb.Sampling(temperature=0.5, top_p=1.0)
    found = read_request(request(sampling=older), VOCAB).sampling
    assert found == SamplingParams(temperature=0.5)
    assert not found.shifts_logits


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
            sampling=sampling(
                temperature=0.5,
                top_k=3,
                top_p=0.25,
                min_p=0.125,
                logit_bias={99: -100, 0: 100},
                repetition_penalty=16,
                presence_penalty=-2,
                frequency_penalty=2,
            ),
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
    assert isinstance(asked.prompt, ChatPrompt)
    assert asked.prompt.chat == Chat(messages=(Message("user", "é", "ann"),), created=asked.created)
    assert asked.prompt_bytes == 2
    assert asked.sampling == SamplingParams(
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        min_p=0.125,
        logit_bias=((0, 100.0), (99, -100.0)),
        repetition_penalty=16.0,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        seed=2**64 - 1,
        choice=3,
        logprobs=2,
    )
    assert (asked.max_tokens, asked.stop_strings, asked.stop_token_ids) == (5, ("a", "b"), {7})
    assert (asked.ignore_eos, asked.created, asked.request_id) == (True, 5.0, "r")
    assert asked.resumed_ids == (1, 2)


ALL = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
DEFAULTS = SamplingDefaults(
    temperature=0.5, top_k=20, top_p=0.75, min_p=0.125, repetition_penalty=1.25
)


def test_the_models_defaults_are_in_force_where_the_request_says_nothing():
    unstated = pb.Unstated(**dict.fromkeys(ALL, True))
    said = sampling(temperature=1, repetition_penalty=1, presence_penalty=1, unstated=unstated)
    found = read_request(request(sampling=said), VOCAB, DEFAULTS).sampling
    assert found == SamplingParams(
        temperature=0.5,
        top_k=20,
        top_p=0.75,
        min_p=0.125,
        repetition_penalty=1.25,
        presence_penalty=1,
    )


@pytest.mark.parametrize("unstated", ALL)
def test_each_field_for_itself(unstated: str):
    said = sampling(temperature=1, top_k=3, unstated=pb.Unstated(**{unstated: True}))
    found = read_request(request(sampling=said), VOCAB, DEFAULTS).sampling
    stated = {"temperature": 1, "top_k": 3, "top_p": 1, "min_p": 0, "repetition_penalty": 1}
    expected = stated | {unstated: getattr(DEFAULTS, unstated)}
    assert found == SamplingParams(**expected)


def test_a_gateway_that_does_not_say_what_is_unstated_says_all():
    older = sampling(temperature=0, repetition_penalty=1)
    assert read_request(request(sampling=older), VOCAB, DEFAULTS).sampling == SamplingParams()


def test_without_a_default_the_apis_own_is_in_force():
    said = sampling(temperature=1, unstated=pb.Unstated(**dict.fromkeys(ALL, True)))
    found = read_request(request(sampling=said), VOCAB).sampling
    assert found == SamplingParams(temperature=1)
