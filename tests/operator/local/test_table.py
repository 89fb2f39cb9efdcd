"""`modelfleet status`: what stands where, at 80 columns."""

from __future__ import annotations

from typing import Any

from modelfleet_operator.local.table import chosen, table

NOW = 1_700_000_000.0
ENDPOINT = "http://127.0.0.1:8080"


def document(name: str = "smollm2", **changes: Any) -> dict[str, Any]:
    """As `modelfleet up` writes it; `ready` is status, reason and message of Ready."""
    status, reason, message = changes.pop("ready", ("True", "Serving", "1 of 1 replica ready"))
    stalled = changes.pop("stalled", "")
    conditions = [
        {"type": "Ready", "status": status, "reason": reason, "message": message},
        {"type": "Stalled", "status": "True" if stalled else "False", "message": stalled},
        {"type": "NameConflict", "status": "False", "message": ""},
    ]
    return {
        "metadata": {
            "namespace": changes.pop("namespace", "default"),
            "name": name,
            "creationTimestamp": "2023-11-14T22:13:20Z",  # NOW
        },
        "spec": {"model": {"source": changes.pop("source", "hf://owner/name")}},
        "status": {
            "conditions": conditions,
            "replicas": 1,
            "desiredReplicas": 1,
            "readyReplicas": 1,
            "revision": "0123abcd",
            "queue": {"waiting": 2, "running": 5},
            **changes,
        },
    }


def shown(*documents: dict[str, Any], endpoint: str = ENDPOINT, width: int = 80, **options) -> str:
    return table(list(documents), endpoint=endpoint, width=width, now=NOW + 125, **options).plain


def test_a_serving_model_is_one_line():
    assert shown(document()).splitlines() == [
        "NAME     READY  REASON   WORKERS  QUEUE  AGE",
        "smollm2  True   Serving  1/1      2+5    2m",
        "",
        "endpoint: http://127.0.0.1:8080/v1",
    ]


def test_a_model_that_fails_shows_how_many_workers_are_wanted_and_says_why_below():
    why = "workers failed 3 times in a row: file:///models/none: there is no folder of that name"
    failing = document(
        ready=("False", "LoadFailed", why), stalled=why, readyReplicas=0, replicas=0, queue=None
    )
    lines = shown(failing).splitlines()
    assert lines[1].split() == ["smollm2", "False", "LoadFailed", "0/1", "-", "2m"]
    assert " ".join(line.strip() for line in lines[2:4]) == why
    assert max(map(len, lines)) <= 80
    assert shown(failing).count("3 times") == 1, "Ready and Stalled say the same: once"


def test_brackets_are_words_not_markup():
    message = "extra [dev] is missing: [/red] [link=http://a]x[/link]"
    text = shown(
        document(source="file:///[bold]", ready=("False", "LoadFailed", message)), wide=True
    )
    assert message in text
    assert "file:///[bold]" in text


def test_control_characters_do_not_reach_the_terminal():
    text = shown(document(ready=("False", "LoadFailed", "a\x1b[2Jb\nc")))
    assert "\x1b" not in text
    assert "[2Jb c" in text


def test_in_the_first_seconds_it_starts_and_nothing_is_wrong():
    unknown = ("Unknown", "NoGateway", "no gateway is connected")
    text = shown(document(ready=unknown, readyReplicas=0, queue=None), endpoint="")
    assert "Unknown" not in text
    assert "no gateway" not in text
    assert text.splitlines()[1].split()[:4] == ["smollm2", "-", "Starting", "0/1"]
    assert "endpoint: the gateway starts" in text
    # Once the gateway was ready, losing it is something to tell.
    assert "NoGateway" in shown(document(ready=unknown))


def test_loading_shows_how_far_it_is():
    loading = document(
        ready=("False", "Starting", "Weights, 40 %"),
        coldStart={"phase": "Weights", "percent": 40, "eta": "2023-11-14T22:15:28Z"},
        readyReplicas=0,
    )
    assert shown(loading).splitlines()[1:3] == [
        "smollm2  False  Starting (Weights 40 %, 3 s)  0/1      2+5    2m",
        "",
    ]


def test_wide_adds_model_and_revision():
    assert "hf://owner/name  0123abcd" in shown(document(), wide=True)
    assert "hf://owner/name" not in shown(document())


def test_wide_shows_what_a_start_takes():
    seconds = {"node": "0s", "image": "0s", "weights": "0s", "load": "1.9s", "firstToken": "0.5s"}
    learned = {"accelerator": "", "wakes": 1, "seconds": seconds | {"total": "2.4s"}}
    assert "2.4s (load 1.9s)" in shown(document(coldStarts=[learned]), wide=True)


def test_filters_by_name_and_namespace():
    everything = [document("a"), document("a", namespace="b"), document("c")]

    def names(*asked: str, namespace: str | None = None) -> list[tuple[str, str]]:
        found = chosen(everything, asked, namespace)
        return [(d["metadata"]["namespace"], d["metadata"]["name"]) for d in found]

    assert len(names()) == 3
    assert names("a") == [("default", "a"), ("b", "a")]
    assert names("b/a", "c") == [("b", "a"), ("default", "c")]
    assert names(namespace="b") == [("b", "a")]


def test_a_long_path_in_a_message_stays_whole():
    path = "/" + "x" * 100
    text = shown(document(ready=("False", "LoadFailed", f"there is no {path} here")))
    assert f"\n  {path}\n" in text


def test_a_worker_that_is_told_to_go_is_a_line_of_its_own():
    told = {"worker": "w-0", "kind": "SpotReclaim", "source": "taint x", "deadline": "2023-11-14Z"}
    assert "w-0 is told to go: SpotReclaim by 2023-11-14Z (taint x)" in shown(
        document(interruptions=[told])
    )
