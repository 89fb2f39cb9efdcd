"""A changed spec rolls over real pods; the old revision is there for as long as it must."""

from __future__ import annotations

import copy
import json
import threading
from typing import Any

import openai

from kube import Kube, Object, eventually, model_deployment
from processes import kill_worker, worker_processes
from traffic import Traffic

CHANGED = {"engine": {"maxSequences": 8}}
BROKEN = {"name": "MODELFLEET_CALIBRATION", "value": "/gone.json"}  # its workers end at once


def revisions(kube: Kube) -> set[str]:
    """Of all pods, ending ones too."""
    pods = kube.items("pods", "modelfleet.dev/deployment=model")
    return {pod["metadata"]["labels"]["modelfleet.dev/revision"] for pod in pods}


def revision(kube: Kube) -> str:
    return str(kube.model("model")["status"]["revision"])


def is_through(kube: Kube, *, after: str = "", to: str = "") -> bool:
    """Every pod is of the new revision (another than `after`, or `to`), and the status says so."""
    model = kube.model("model")
    status = model["status"]
    return (
        status["observedGeneration"] == model["metadata"]["generation"]
        and status["revision"] in ({to} if to else {status["revision"]} - {after})
        and revisions(kube) == {status["revision"]}
        and kube.condition("model", "Reconciling")["status"] == "False"
    )


SMALLER_WORDS = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "smaller-words"},
    "data": {"paced.json": json.dumps({"vocab_size": 500})},
}


class LongStream:
    """One answer of many tokens, read in the background."""

    def __init__(self, endpoint: str, model: str, tokens: int) -> None:
        self._client = openai.OpenAI(base_url=f"{endpoint}/v1", api_key="none", max_retries=0)
        self._model, self._tokens = model, tokens
        self.text, self.chunks, self.error = "", 0, ""
        self._thread = threading.Thread(target=self._read, name="stream")
        self._thread.start()

    def _read(self) -> None:
        try:
            for chunk in self._client.completions.create(
                model=self._model, prompt="Tell me more.", max_tokens=self._tokens, seed=7,
                temperature=0, stream=True, timeout=300, extra_body={"ignore_eos": True},
            ):  # fmt: skip
                self.text += chunk.choices[0].text
                self.chunks += 1
        except openai.APIError as error:
            self.error = repr(error)

    def result(self) -> str:
        """The whole text."""
        self._thread.join()
        assert not self.error, self.error
        return self.text


def test_a_long_stream_outlives_its_revision_and_even_its_worker(kube: Kube, gateway: str):
    model = f"{kube.namespace}/model"
    kube.apply(model_deployment())
    kube.wait("Ready", "modeldeployment/model")
    before = revision(kube)
    (old,) = kube.workers("model")
    stream = LongStream(gateway, model, tokens=4000)
    eventually("it streams", lambda: stream.chunks > 3)

    kube.apply(SMALLER_WORDS, of_smaller_words())
    with Traffic(gateway, model, clients=2) as traffic:
        eventually(
            "the new one serves, the old one drains",
            lambda: (
                kube.model("model")["status"]["revision"] != before
                and kube.condition("model", "Ready")["reason"] == "Serving"
                and "modelfleet.dev/unrouted-at" in labels(kube, old)
            ),
        )
        traffic.wait_for_answers(2)
        assert worker_processes(old["metadata"]["uid"]), "a stream runs on it"
        kill_worker(old)
        again = eventually(
            "another of the old revision takes the stream",
            lambda: [
                pod
                for pod in kube.workers("model")
                if pod["metadata"]["labels"]["modelfleet.dev/revision"] == before
                and pod["metadata"]["uid"] != old["metadata"]["uid"]
            ],
        )
        assert again[0]["spec"]["containers"][0]["args"] == old["spec"]["containers"][0]["args"]
        text = stream.result()
        traffic.wait_for_answers(2)
    account = traffic.account  # answers may differ: the model changed
    assert (account.lost, account.refused) == ([], [])
    eventually("only the new revision is left", lambda: is_through(kube, after=before), 120)
    kube.apply(model_deployment())
    eventually("the old YAML rolls back", lambda: is_through(kube, to=before), 120)
    assert text == LongStream(gateway, model, tokens=4000).result(), "what nothing disturbed says"


def of_smaller_words() -> Object:
    """The same deployment of a model with other words: no worker of one continues the other's."""
    changed = model_deployment()
    spec = changed["spec"]["podTemplate"]["spec"]
    spec["volumes"] = [{"name": "calibration", "configMap": {"name": "smaller-words"}}]
    (container,) = spec["containers"]
    container["env"].append({"name": "MODELFLEET_CALIBRATION", "value": "/calibration/paced.json"})
    container["volumeMounts"] = [{"name": "calibration", "mountPath": "/calibration"}]
    return changed


def labels(kube: Kube, pod: Object) -> dict[str, Any]:
    found = kube.find("pod", pod["metadata"]["name"])
    return dict(found["metadata"]["labels"]) if found else {}


def test_a_revision_that_never_gets_ready_leaves_the_old_one_serving(kube: Kube, gateway: str):
    model = f"{kube.namespace}/model"
    good = model_deployment(scaling={"minReplicas": 2})
    kube.apply(good)
    kube.wait("Ready", "modeldeployment/model")
    eventually("both serve", lambda: kube.model("model")["status"]["readyReplicas"] == 2)
    before = revision(kube)
    bad = copy.deepcopy(good)
    bad["spec"]["podTemplate"]["spec"]["containers"][0]["env"].append(BROKEN)
    with Traffic(gateway, model, clients=2) as traffic:
        kube.apply(bad)
        kube.wait("Stalled", "modeldeployment/model", 60)
        found = kube.condition("model", "Ready")
        assert (found["status"], found["reason"]) == ("True", "ServingOldRevision")
        assert found["observedGeneration"] == kube.model("model")["metadata"]["generation"]
        assert "$MODELFLEET_CALIBRATION" in kube.condition("model", "Stalled")["message"]

        victim = next(pod for pod in kube.workers("model") if of(pod) == before)
        kill_worker(victim)
        eventually(
            "one of the old revision replaces it",
            lambda: (
                victim["metadata"]["uid"]
                not in {p["metadata"]["uid"] for p in kube.workers("model")}
                and kube.model("model")["status"]["readyReplicas"] == 2
            ),
        )
        traffic.wait_for_answers(2)

        kube.apply(good)
        eventually(
            "the old YAML rolls back",
            lambda: is_through(kube, to=before),
        )
    traffic.check()
    eventually("it has the highest number", lambda: numbers(kube).get(f"model-{before}") == 3)
    assert sorted(numbers(kube).values()) == [2, 3]


def of(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["modelfleet.dev/revision"])


def numbers(kube: Kube) -> dict[str, int]:
    """The history."""
    kept = kube.items("controllerrevisions", "modelfleet.dev/deployment=model")
    return {each["metadata"]["name"]: each["revision"] for each in kept}


def test_without_surge_one_at_a_time_and_never_fewer_than_allowed(kube: Kube, gateway: str):
    model = f"{kube.namespace}/model"
    rollout = {"maxSurge": 0, "maxUnavailable": 1}
    kube.apply(model_deployment(scaling={"minReplicas": 2}, rollout=rollout))
    eventually(
        "both serve", lambda: kube.model("model").get("status", {}).get("readyReplicas") == 2
    )
    before = revision(kube)
    most, least = [], []
    with Traffic(gateway, model, clients=2) as traffic:
        kube.patch("modeldeployment", "model", {"spec": CHANGED})

        def through() -> bool:
            pods = kube.items("pods", "modelfleet.dev/deployment=model")
            most.append(len(pods))
            least.append(kube.model("model")["status"]["readyReplicas"])
            return is_through(kube, after=before)

        eventually("it is through", through, 120)
        traffic.wait_for_answers(2)
    traffic.check()
    assert max(most) == 2
    assert min(least) >= 1
