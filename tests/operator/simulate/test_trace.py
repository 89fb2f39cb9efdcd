from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from modelfleet_operator.errors import TraceError
from modelfleet_operator.simulate.rates import draw, is_rates, liveliest, read_client
from modelfleet_operator.simulate.trace import Cut, columns, cut, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319569,3180,8
2023-11-16 18:17:05.0,110,27
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,Conversation log
"""
MOONCAKE = (
    '{"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1]}\n'
    '{"timestamp": 3052, "input_length": 7319, "output_length": 490, "hash_ids": [0]}\n'
)
OURS = "arrival_s,service,input_tokens,output_tokens\n0.0,code,10,2\n1.5,conv,20,3\n"


def access_log(*rows: tuple[float, int, str, int | None, int | None]) -> str:
    return "".join(
        json.dumps(
            {
                "event": "access", "request": "a", "arrival": at, "status": status, "model": model,
                "prompt_tokens": prompt, "completion_tokens": answer,
            }
        )
        + "\n"
        for at, status, model, prompt, answer in rows
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "known_as", "arrivals", "prompts", "answers"),
    [
        ("azure.csv", AZURE, "Azure LLM", [0, 0.052, 1.02], [4808, 3180, 110], [10, 8, 27]),
        ("burst.csv", BURSTGPT, "BurstGPT", [0, 40], [472, 1087], [18, 230]),
        ("mooncake.jsonl", MOONCAKE, "Mooncake", [0, 3.052], [6755, 7319], [500, 490]),
        ("ours.csv", OURS, "made relative", [0, 1.5], [10, 20], [2, 3]),
        (
            "access.jsonl",
            access_log((1e9, 200, "default/a", 5, 7), (1e9 + 1, 503, "default/a", None, None),
                       (1e9 + 2, 200, "default/b", 6, 8)),
            "access log", [0, 2], [5, 6], [7, 8],
        ),
        ("plain.csv", "arrival,prompt_tokens,output_tokens\n3,4,5\n", "arrivals", [0], [4], [5]),
    ],
)  # fmt: skip
def test_public_traces_are_recognised(
    tmp_path: Path, name: str, text: str, known_as: str, arrivals, prompts, answers
):
    plain, packed = tmp_path / name, tmp_path / f"{name}.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (plain, packed):
        trace = read_trace(path)
        assert known_as in trace.source
        assert list(trace.arrivals) == pytest.approx(arrivals, abs=1e-3)
        assert (list(trace.prompts), list(trace.answers)) == (prompts, answers)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", AZURE + "2023-11-16 18:17:06,many,1\n", "line 5: ContextTokens: expected a numb"),
        ("a.csv", AZURE + "2023-11-16 18:17:06,1\n", "line 5: expected 3 columns"),
        ("a.csv", AZURE + "2023-11-16 18:17:02,1,1\n", "line 5: TIMESTAMP is .* sort the trace"),
        ("a.csv", AZURE + "yesterday,1,1\n", "line 5: TIMESTAMP: expected seconds or a date"),
        ("a.jsonl", MOONCAKE + '{"timestamp": 1', "line 3: expected a JSON object"),
        ("a.jsonl", MOONCAKE + "7\n", "line 3: expected a JSON object, found 7"),
        ("a.jsonl", '{"timestamp": 1, "input_length": -1, "output_length": 2}', "line 1: input_le"),
        ("a.jsonl", '{"timestamp": NaN, "input_length": 1, "output_length": 2}', "line 1: timest"),
        ("a.csv", "when,what\n1,2\n", "expected columns for arrival.*found when, what"),
        ("a.csv", "", "expected a row for each request, found none"),
        ("a.csv", "arrival_s,service,input_tokens,output_tokens\n", "found none"),
    ],
)
def test_a_broken_trace_is_one_sentence_that_names_the_line(
    tmp_path: Path, name: str, text: str, message: str
):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(TraceError, match=message) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_access_log_has_requests_as_they_ended(tmp_path: Path):
    path = tmp_path / "access.jsonl"
    other = '{"event": "connected to the operator", "level": "info"}\n'
    path.write_text(
        other + access_log((1e9 + 5, 200, "default/a", 5, 7), (1e9, 200, "default/b", 6, 8))
    )
    trace = read_trace(path)
    assert (list(trace.arrivals), list(trace.prompts)) == ([0, 5], [6, 5])
    assert trace.models == ("default/b", "default/a")


def test_no_trace_and_a_broken_archive_are_one_sentence(tmp_path: Path):
    with pytest.raises(TraceError, match="cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "a.csv.gz").write_bytes(b"not packed")
    with pytest.raises(TraceError, match="expected CSV or JSON lines"):
        read_trace(tmp_path / "a.csv.gz")


def test_one_service_of_a_trace(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text(OURS)
    assert list(read_trace(path, model="conv").prompts) == [20]
    with pytest.raises(TraceError, match="expected requests of model chat"):
        read_trace(path, model="chat")


def test_a_part_of_a_trace_and_a_multiple_of_its_load(tmp_path: Path):
    path = tmp_path / "a.csv"
    rows = "".join(f"{n},{n + 1},3\n" for n in range(1000))
    path.write_text("arrival,prompt_tokens,output_tokens\n" + rows)
    trace = read_trace(path)
    part = cut(trace, Cut(start=100, length=50))
    assert (list(part.prompts), part.arrivals[0]) == (list(range(101, 151)), 0)
    double = cut(trace, Cut(factor=2.5, seed=1))
    assert 2400 < len(double) < 2600
    assert list(double.arrivals) == sorted(double.arrivals)
    assert cut(trace, Cut(factor=2.5, seed=1)) == double
    assert 400 < len(cut(trace, Cut(factor=0.5))) < 600
    with pytest.raises(TraceError, match="there are no requests from 2000 s on"):
        cut(trace, Cut(start=2000))


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    path = tmp_path / "x-rates.csv"
    path.write_text(
        "client,start_s,rate_rps,cv,family,shape,scale\n"
        "1,0,0.5,1,Gamma,1.0,2.0\n1,1200,5,2,Weibull,0.6,0.1\n2,0,1,1,Gamma,1,1\n"
    )
    percentiles = [f"{kind}_{p}" for kind in ("in", "out")
                   for p in ("p5", "p25", "p50", "p75", "p90", "p95", "p99", "mean")]  # fmt: skip
    (tmp_path / "x-lengths.csv").write_text(
        f"client,start_s,{','.join(percentiles)}\n1,0,10,20,30,40,50,60,70,30,1,2,3,4,5,6,7,3\n"
    )
    return path


def test_requests_are_drawn_from_rates(rates: Path):
    assert is_rates(columns(rates))
    client = read_client(rates, "1")
    trace = draw(client, Cut(seed=3), "x")
    assert len(trace) == pytest.approx(300 + 3000, abs=2)
    assert list(trace.arrivals) == sorted(trace.arrivals)
    quiet = [at for at in trace.arrivals if 600 <= at < 1200]
    assert quiet == []
    assert (min(trace.prompts), max(trace.prompts)) >= (5, 70)
    assert sorted(trace.prompts)[len(trace) // 2] == pytest.approx(30, abs=2)
    assert draw(client, Cut(seed=3), "x") == trace
    assert len(draw(client, Cut(factor=2), "x")) == pytest.approx(6600, abs=2)
    late = draw(client, Cut(start=1200, length=300), "x")
    assert 0 <= late.arrivals[0] < late.arrivals[-1] < 300
    assert liveliest(client, 600, 0, 2400) == 1200


@pytest.mark.parametrize(
    ("client", "message"),
    [("", r"name one of its clients with --client \(1, 2"), ("9", "found '9'"),
     ("2", "client 2 has no lengths")],
)  # fmt: skip
def test_a_client_must_be_named_and_have_lengths(rates: Path, client: str, message: str):
    with pytest.raises(TraceError, match=message):
        read_client(rates, client)
