"""Greedy output equals transformers token for token, whatever happens around a request."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from engine_run import Run, run_engine
from generic_models import SIZES, VOCAB, load
from modelfleet_worker.devices.torch.runner import TorchRunner
from modelfleet_worker.engine.device import Runner
from modelfleet_worker.engine.messages import Abort
from modelfleet_worker.engine.request import Request, SamplingParams
from modelfleet_worker.models.llama import Llama

Ids = tuple[int, ...]
NEW = 12  # tokens of each answer


def request(
    prompt: Ids,
    name: str | int = "a",
    *,
    resumed: Ids = (),
    max_tokens: int = NEW,
    sampling: SamplingParams | None = None,
) -> Request:
    return Request(
        request_id=str(name),
        prompt_ids=prompt,
        resumed_ids=resumed,
        max_tokens=max_tokens,
        sampling=sampling or SamplingParams(),
    )


def numbered(prompts: list[Ids], **changes) -> list[Request]:
    return [request(prompt, i, **changes) for i, prompt in enumerate(prompts)]


def greedy(reference: PreTrainedModel, prompt: Ids, **options) -> Ids:
    generated = reference.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    return tuple(generated[0, len(prompt) :].tolist())


@pytest.fixture(scope="session")
def model(runner: TorchRunner) -> Llama:
    return runner.model


@pytest.fixture(scope="session")
def expected(reference: PreTrainedModel, prompts: list[Ids]) -> list[Ids]:
    return [greedy(reference, prompt) for prompt in prompts]


def ids(run, count: int) -> list[Ids]:
    return [tuple(run.answers[str(i)].ids) for i in range(count)]


def test_alone(runner: TorchRunner, prompts, expected):
    alone = [tuple(run_engine(runner, [request(p)]).answers["a"].ids) for p in prompts]
    assert alone == expected


@pytest.mark.parametrize(
    ("budget", "caching"),
    [(1, True), (7, True), (7, False), (64, True), (64, False), (100_000, True), (100_000, False)],
)
def test_in_a_batch_with_others(runner: TorchRunner, prompts, expected, budget: int, caching: bool):
    few = prompts[:2] if budget == 1 else prompts  # a step for each of their tokens
    run = run_engine(runner, numbered(few), budget=budget, caching=caching)
    assert ids(run, len(few)) == expected[: len(few)]


def test_after_a_hit_in_the_prefix_cache(runner: TorchRunner, prompts, expected):
    again = [request(prompts[-1], i) for i in range(3)]
    run = run_engine(runner, again, sequences=1)
    assert ids(run, 3) == [expected[-1]] * 3
    assert [run.answers[str(i)].cached_tokens for i in range(3)] == [0, 64, 64]


def test_with_forced_preemption(model: Llama, prompts, expected):
    tiny = TorchRunner(model, num_blocks=6, context_length=512)
    run = run_engine(tiny, numbered(prompts))
    assert run.stats.preemptions > 0
    assert ids(run, len(prompts)) == expected


def test_with_a_neighbour_aborted_midway(runner: TorchRunner, prompts, expected):
    def abort_one(engine, answers):
        if len(answers["1"].ids) == 5:
            engine.submit(Abort("1"))

    run = run_engine(runner, numbered(prompts), after_step=abort_one, aborts=1)
    others = [i for i in range(len(prompts)) if i != 1]
    assert [tuple(run.answers[str(i)].ids) for i in others] == [expected[i] for i in others]
    assert 5 <= len(run.answers["1"].ids) < NEW  # it stopped within a step or two


def test_resumed_after_every_token(runner: TorchRunner, prompts, expected):
    answer = expected[1]
    resumed = [request(prompts[1], k, resumed=answer[:k]) for k in range(1, NEW)]
    run = run_engine(runner, resumed)
    assert {k: tuple(run.answers[str(k)].ids) for k in range(1, NEW)} == {
        k: answer[k:] for k in range(1, NEW)
    }


def test_a_drawn_answer_depends_on_nothing_but_its_request(
    runner: TorchRunner, model: Llama, prompts
):
    prompts = prompts[:5]
    sampling = SamplingParams(temperature=1.0, top_k=200, top_p=0.95, seed=2**64 - 1, choice=1)
    alone = tuple(run_engine(runner, [request(prompts[1], sampling=sampling)]).answers["a"].ids)
    batch = numbered(prompts, sampling=sampling)
    tiny = TorchRunner(model, num_blocks=5, context_length=512)
    assert tuple(run_engine(runner, batch, budget=7).answers["1"].ids) == alone
    preempted = run_engine(tiny, batch)
    assert preempted.stats.preemptions > 0
    assert tuple(preempted.answers["1"].ids) == alone
    resumed = [
        request(prompts[1], k, resumed=alone[:k], sampling=sampling) for k in range(1, NEW, 4)
    ]
    run = run_engine(runner, resumed)
    assert all(tuple(run.answers[r.request_id].ids) == alone[len(r.resumed_ids) :] for r in resumed)
    other = SamplingParams(temperature=1.0, seed=2**64 - 1, choice=2)
    elsewhere = run_engine(runner, [request(prompts[1], sampling=other)])
    assert tuple(elsewhere.answers["a"].ids) != alone


def check_that_penalties_notice_nothing(
    model: Llama, counting: Ids, neighbours: list[Ids], sampling: SamplingParams
) -> None:
    """Neither a resume nor a preemption nor neighbours; `counting` is answered with repetition."""
    vocab_size = model.config.vocab_size

    def run(requests: list[Request], *, num_blocks: int = 100) -> Run:
        runner = TorchRunner(model, num_blocks=num_blocks, context_length=256)
        return run_engine(runner, requests, vocab_size=vocab_size)

    length = 32  # long enough for the plain answer to repeat itself
    handovers = range(1, length, 10)
    whole = {"sampling": sampling, "max_tokens": length}
    alone = tuple(run([request(counting, **whole)]).answers["a"].ids)
    resumed = run([request(counting, k, resumed=alone[:k], **whole) for k in handovers])
    assert {k: tuple(resumed.answers[str(k)].ids) for k in handovers} == {
        k: alone[k:] for k in handovers
    }
    preempted = run(numbered([counting] * 4, **whole), num_blocks=10)
    assert preempted.stats.preemptions > 0
    assert ids(preempted, 4) == [alone] * 4
    # The plain answer goes with them, as the last of the neighbours.
    plain = [*numbered(neighbours), request(counting, len(neighbours), max_tokens=length)]
    answers = ids(run(plain), len(plain))
    together = run([*plain, request(counting, len(plain), **whole)])
    assert ids(together, len(plain) + 1) == [*answers, alone]
    assert answers[-1] != alone


def test_penalties_do_not_notice_a_resume_or_a_preemption(model: Llama, prompts):
    sampling = SamplingParams(
        temperature=1.0,
        min_p=0.05,
        seed=5,
        logit_bias=((28, -9.0),),
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=1.5,
    )
    check_that_penalties_notice_nothing(model, prompts[3], prompts[:3], sampling)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    """Of random weights: what penalties count does not depend on what a model has learned."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small")
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    runner = load(folder).runner
    assert isinstance(runner, TorchRunner)
    return runner.model


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(SamplingParams(frequency_penalty=2.0), id="greedy, answer only"),
        pytest.param(SamplingParams(repetition_penalty=1.3), id="greedy, prompt too"),
    ],
)
def test_each_penalty_by_itself_notices_neither(small: Llama, sampling: SamplingParams):
    counting, *neighbours = (
        tuple((step * i + 1) % VOCAB for i in range(14)) for step in (3, 5, 7, 11)
    )
    check_that_penalties_notice_nothing(small, counting, neighbours, sampling)


def test_the_repetition_penalty_is_that_of_transformers(
    runner: TorchRunner, reference: PreTrainedModel, prompts
):
    some = prompts[::2]
    run = run_engine(runner, numbered(some, sampling=SamplingParams(repetition_penalty=1.3)))
    assert ids(run, len(some)) == [
        greedy(reference, prompt, repetition_penalty=1.3) for prompt in some
    ]


def test_logprobs_are_those_of_the_plain_distribution(
    runner: TorchRunner, reference: PreTrainedModel, prompts
):
    sampling = SamplingParams(temperature=0.7, top_k=5, seed=3, logprobs=4)
    answer = run_engine(runner, [request(prompts[0], sampling=sampling)]).answers["a"]
    known = torch.tensor([[*prompts[0], *answer.ids]])
    with torch.inference_mode():
        logits = reference(known).logits[0, len(prompts[0]) - 1 : -1].float()
    expected = logits.log_softmax(-1)
    for row, id_, found in zip(expected, answer.ids, answer.logprobs, strict=True):
        top = row.topk(4)
        assert found.chosen == pytest.approx(float(row[id_]), abs=1e-3)
        assert [i for i, _ in found.top] == top.indices.tolist()
        assert [p for _, p in found.top] == pytest.approx(top.values.tolist(), abs=1e-3)


def test_bfloat16_differs_only_at_near_ties(
    bf16_runner: Runner, bf16_reference: PreTrainedModel, prompts
):
    found = ids(run_engine(bf16_runner, numbered(prompts)), len(prompts))
    exact = [follows(bf16_reference, p, ours) for p, ours in zip(prompts, found, strict=True)]
    assert sum(exact) >= len(prompts) // 2  # ties are the exception


def follows(reference: PreTrainedModel, prompt: Ids, ours: Ids) -> bool:
    """Whether `ours` is what the reference would say; False: up to a near tie.

    At the first divergence our token and its own have to be the two likeliest, less than 0.125
    nats apart. Before it, the reference has read the same tokens as if it had said them.
    """
    with torch.inference_mode():
        logits = reference(torch.tensor([[*prompt, *ours]])).logits[0, len(prompt) - 1 : -1]
    for row, id_ in zip(logits.float().log_softmax(-1), ours, strict=True):
        top = row.topk(2)
        if id_ != top.indices[0]:
            assert id_ == top.indices[1]
            assert float(top.values[0] - top.values[1]) < 0.125
            return False
    return True
