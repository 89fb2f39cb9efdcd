"""What is sent to workers: the bytes of a request."""

from modelfleet_gateway.routing.stream import ChoiceRequest, choice_requests
from modelfleet_proto import worker_pb2


def sent(request: ChoiceRequest, *resume) -> worker_pb2.GenerateRequest:
    return worker_pb2.GenerateRequest.FromString(b"".join(request.serialize(*resume)))


def test_a_choice_is_what_all_share_and_what_is_its_own():
    shared = worker_pb2.GenerateRequest(prompt="p", seed=7)
    request = ChoiceRequest(
        model="a/b", request_id="r.1", choice=1, shared=shared.SerializeToString()
    )
    first = worker_pb2.GenerateRequest(model="a/b", request_id="r.1", choice=1, prompt="p", seed=7)
    assert sent(request) == first
    first.resume.token_ids.extend([1, 2])
    first.resume.model_digest = "d"
    assert sent(request, [1, 2], "d") == first
    first.resume.ClearField("token_ids")
    assert sent(request, [], "d") == first


def test_choices_are_numbered_prompt_by_prompt_and_share_their_bytes():
    prompts = [b"one", b"two"]
    requests = choice_requests(prompts, 2, model="a/b", request_id="r")
    assert [(r.request_id, r.choice) for r in requests] == [
        ("r.0", 0),
        ("r.1", 1),
        ("r.2", 0),
        ("r.3", 1),
    ]
    assert all(r.shared is prompts[number // 2] for number, r in enumerate(requests))
