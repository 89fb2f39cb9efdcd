"""Browsers: pages of listed origins may call, all others may not read a word."""

import pytest

from gateway_doubles import ScriptedWorker, running_fleet
from modelfleet_gateway.errors import StartupError
from modelfleet_gateway.options import Options

TEXT = {"model": "tiny", "prompt": "hi"}
CHAT = "https://chat.example.com"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


async def test_by_default_no_page_may_call():
    async with running_fleet(ScriptedWorker()) as fleet:
        preflight = await fleet.http.options(
            "/v1/completions", headers={"origin": CHAT, **PREFLIGHT}
        )
        answer = await fleet.http.post("/v1/completions", json=TEXT, headers={"origin": CHAT})
    assert preflight.status_code == 405
    assert preflight.json()["error"]["code"] == "method_not_allowed"
    for one in (preflight, answer):
        assert not [name for name in one.headers if name.startswith("access-control-")]


async def test_pages_of_listed_origins_may_call():
    options = Options(operator="", cors_origins=("https://other.example:8443", CHAT))
    async with running_fleet(ScriptedWorker(), options=options) as fleet:
        preflight = await fleet.http.options(
            "/v1/chat/completions", headers={"origin": CHAT, **PREFLIGHT}
        )
        answers = [
            await fleet.http.post(
                "/v1/completions", json={**TEXT, **more}, headers={"origin": CHAT}
            )
            for more in ({}, {"stream": True}, {"n": 0})
        ]
        stranger = {"origin": "https://chat.example.com.evil.example"}
        refused = await fleet.http.options("/v1/completions", headers={**stranger, **PREFLIGHT})
        unread = await fleet.http.post("/v1/completions", json=TEXT, headers=stranger)
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == CHAT
    assert preflight.headers["access-control-allow-methods"] == "GET, POST, DELETE"
    assert preflight.headers["access-control-allow-headers"] == "authorization, *"
    assert [answer.status_code for answer in answers] == [200, 200, 400]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == CHAT
        assert answer.headers["vary"] == "origin"
        assert "retry-after" in answer.headers["access-control-expose-headers"]
    assert refused.status_code == 405
    for one in (refused, unread):
        assert not [name for name in one.headers if name.startswith("access-control-")]


async def test_any_origin():
    options = Options(operator="", cors_origins=("*",))
    async with running_fleet(ScriptedWorker(), options=options) as fleet:
        answer = await fleet.http.get("/v1/models", headers={"origin": "null"})
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "origin", ["chat.example.com", "https://a/b", "https://a b", "", "ftp://a"]
)
def test_an_origin_is_a_scheme_a_host_and_a_port(origin: str):
    with pytest.raises(StartupError, match="--cors-origin"):
        Options(operator="", cors_origins=(origin,))
