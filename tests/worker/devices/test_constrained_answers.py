"""Answers that are held to a schema, by each device: valid, resumable, and alone as beside others."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from engine_run import Run, run_engine
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.engine.device import Runner
from modelfleet_worker.engine.request import FinishReason, Request, SamplingParams
from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.constraint import CompiledGrammar, Grammars
from modelfleet_worker.text.grammar import JSON_OBJECT, Grammar
from quantized_models import load, tiny
from structured import END, ENDING_BIAS, SmallVocabulary, dumped, random_object, random_schema

VOCAB = 503
# `make structured` asks for 10,000.
ANSWERS = int(os.environ.get("ANSWERS", "200"))
HOT = SamplingParams(temperature=2.0, logit_bias=ENDING_BIAS)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    vocabulary = SmallVocabulary(VOCAB)
    return Grammars(vocabulary, vocab_size=VOCAB, eos_ids=vocabulary.eos_ids)


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runner]:
    folder = tmp_path_factory.mktemp("model")
    sizes = {"max_position_embeddings": 512, "initializer_range": 0.02}
    tiny(vocab_size=VOCAB, head_dim=32, **sizes).save_pretrained(folder)
    return {
        "compiled": load(folder, dtype="BFloat16").runner,
        "torch": load(folder, dtype="Float32").runner,
    }


@pytest.fixture(params=["compiled", "torch"])
def runner(request: pytest.FixtureRequest, runners: dict[str, Runner]) -> Runner:
    found = runners[request.param]
    assert isinstance(found, NativeRunner) == (request.param == "compiled")
    return found


def compiled(grammars: Grammars, grammar: Grammar | dict) -> CompiledGrammar:
    if isinstance(grammar, dict):
        grammar = Grammar.json_schema(dumped(grammar))
    return grammars.compile((grammar, None))


def asking(
    grammar: CompiledGrammar | None,
    name: str = "a",
    *,
    seed: int = 0,
    sampling: SamplingParams = HOT,
    resumed: tuple[int, ...] = (),
    max_tokens: int = 300,
    obeys_eos: bool = True,
) -> Request:
    drawn = {field: getattr(sampling, field) for field in sampling.__slots__} | {"seed": seed}
    return Request(
        request_id=name,
        prompt_ids=(5, 6, 7, seed % VOCAB),
        resumed_ids=resumed,
        sampling=SamplingParams(**drawn),
        max_tokens=max_tokens,
        stop_token_ids=frozenset({END}) if obeys_eos else frozenset(),
        constraint=None if grammar is None else grammar.start(resumed, obeys_eos=obeys_eos),
    )


def text_of(ids: list[int]) -> str:
    return SmallVocabulary(VOCAB).text(ids)


def run(runner: Runner, requests: list[Request], **options) -> Run:
    return run_engine(runner, requests, vocab_size=VOCAB, **options)


@pytest.mark.parametrize("kind", ["compiled", "torch"])
def test_every_finished_answer_is_valid(runners, grammars, kind):
    """Random weights, temperature 2, schemas of every kind; torch's operations do a tenth."""
    numbers = random.Random(1)
    answers, finished, refused = ANSWERS if kind == "compiled" else ANSWERS // 10, 0, 0
    for begin in range(0, answers, 16):
        schemas, requests = {}, []
        for seed in range(begin, min(begin + 16, answers)):
            schema = random_object(numbers) if seed % 3 else random_schema(numbers)
            try:
                grammar = compiled(grammars, schema)
            except InvalidRequestError:
                refused += 1
                continue
            schemas[str(seed)] = schema
            requests.append(asking(grammar, str(seed), seed=seed))
        for name, answer in run(runners[kind], requests).answers.items():
            if answer.finished is FinishReason.STOP:
                finished += 1
                value = json.loads(text_of(answer.ids))
                assert not list(Draft202012Validator(schemas[name]).iter_errors(value)), (
                    schemas[name],
                    text_of(answer.ids),
                )
    assert finished > answers * 0.6
    assert refused < answers * 0.2


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(logit_bias=ENDING_BIAS),
        HOT,
        SamplingParams(temperature=1.0, top_k=5, top_p=0.9, min_p=0.01, logit_bias=ENDING_BIAS),
        SamplingParams(logit_bias=((1 + ord("x"), 100.0), *ENDING_BIAS), logprobs=2),
        SamplingParams(temperature=1.0, repetition_penalty=1.2, presence_penalty=0.5),
    ],
    ids=["greedy", "hot", "cut off", "biased with logprobs", "penalized"],
)
def test_a_schema_combines_with_how_tokens_are_drawn(runner, grammars, sampling):
    requests = [
        asking(compiled(grammars, PERSON), str(i), seed=i, sampling=sampling) for i in range(3)
    ]
    for answer in run(runner, requests).answers.values():
        assert answer.finished is FinishReason.STOP
        Draft202012Validator(PERSON).validate(json.loads(text_of(answer.ids)))
        if sampling.logprobs is not None:
            assert len(answer.logprobs) == len(answer.ids)


def test_logprobs_are_of_the_models_own_distribution(runner, grammars):
    """Of the first token: the same, whether a schema allows it or not."""
    params = SamplingParams(logprobs=20)
    free, held = (
        run(runner, [asking(g, sampling=params, max_tokens=1)]).answers["a"].logprobs[0]
        for g in (None, compiled(grammars, PERSON))
    )
    assert free.top == held.top
    assert held.chosen < free.chosen  # it is not the model's choice


def test_both_devices_draw_what_the_mask_leaves(runners, grammars):
    """An enum of one: each token but the whitespace is forced, and whitespace is banned."""
    only = compiled(grammars, {"const": "forced"})
    for runner in runners.values():
        answer = run(runner, [asking(only)]).answers["a"]
        assert text_of(answer.ids) == '"forced"'
        assert answer.finished is FinishReason.STOP


def test_resumed_at_every_token_it_is_the_same_answer(runner, grammars):
    grammar = compiled(grammars, PERSON)
    whole = run(runner, [asking(grammar, seed=3)]).answers["a"]
    assert len(whole.ids) > 10
    for cut in range(1, len(whole.ids)):
        rest = run(runner, [asking(grammar, seed=3, resumed=tuple(whole.ids[:cut]))]).answers["a"]
        assert whole.ids[:cut] + rest.ids == whole.ids, cut
        assert rest.finished is whole.finished


def test_others_beside_it_and_preemptions_change_nothing(runners, grammars):
    runner = runners["compiled"]
    assert isinstance(runner, NativeRunner)
    small = NativeRunner(runner.model, num_blocks=6, context_length=96, threads=2)

    def requests() -> list[Request]:
        names = [*map(str, range(8))]
        kinds = [None, compiled(grammars, PERSON), compiled(grammars, JSON_OBJECT)]
        return [asking(kinds[i % 3], name, seed=i, max_tokens=60) for i, name in enumerate(names)]

    together = run(small, requests(), caching=False)
    assert together.stats.preemptions > 0
    for request in requests():
        alone = run(small, [request]).answers[request.request_id]
        assert together.answers[request.request_id] == alone


def test_what_is_cut_short_says_so_and_what_is_complete_does_not(runner, grammars):
    grammar = compiled(grammars, PERSON)
    whole = run(runner, [asking(grammar, seed=4)]).answers["a"]
    cut = run(runner, [asking(grammar, seed=4, max_tokens=len(whole.ids) - 1)]).answers["a"]
    assert (cut.ids, cut.finished) == (whole.ids[:-1], FinishReason.LENGTH)
    exact = run(runner, [asking(grammar, seed=4, max_tokens=len(whole.ids))]).answers["a"]
    assert (exact.ids, exact.finished) == (whole.ids, FinishReason.STOP)


def test_an_end_that_is_not_obeyed_comes_only_where_nothing_else_may(runner, grammars):
    words = compiled(grammars, Grammar.regex("[a-c]+"))
    answer = run(runner, [asking(words, obeys_eos=False, max_tokens=40)]).answers["a"]
    assert answer.finished is FinishReason.LENGTH
    assert set(text_of(answer.ids)) <= set("abc")
    assert len(answer.ids) == 40


def test_a_matcher_that_fails_ends_its_request_and_no_other(runner, grammars):
    grammar = compiled(grammars, PERSON)
    broken, sound = asking(grammar, "broken"), asking(grammar, "sound", seed=1)
    assert broken.constraint is not None
    broken.constraint.matcher.consume_token(1 + ord("x"))  # no schema allows it
    broken.constraint._ids.append(1 + ord("x"))
    answers = run(runner, [broken, sound], aborts=1).answers
    assert answers["broken"].ids == []
    assert "cannot be followed" in answers["broken"].failure
    Draft202012Validator(PERSON).validate(json.loads(text_of(answers["sound"].ids)))


def test_grammars_are_no_file_of_the_engine():
    engine = Path(__file__).parents[3] / "worker/modelfleet_worker/engine"
    assert not any("llguidance" in path.read_text() for path in engine.glob("*.py"))
