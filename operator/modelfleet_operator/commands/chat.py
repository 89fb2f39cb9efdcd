"""`modelfleet chat`: try a model at the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Endpoint, ModelName, StateDir, api_key, find_endpoint

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import httpx

    from ..client.gateway import Event


def chat(
    model: ModelName = "",
    message: Annotated[
        str | None,
        typer.Option("--message", "-m", metavar="TEXT", help="Ask this only.", show_default=False),
    ] = None,
    system: Annotated[
        str, typer.Option(metavar="TEXT", help="The system's message.", show_default=False)
    ] = "",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of each answer.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 takes the likeliest token.", show_default=False)
    ] = None,
    endpoint: Endpoint = "",
    state_dir: StateDir = None,
) -> None:
    """Chat with a model, on this machine or at a cluster's gateway.

    /clear forgets what was said, Ctrl-C stops an answer, Ctrl-D ends. A gateway that asks for an
    API key gets the one in $MODELFLEET_API_KEY.
    """
    from ..client.chat import HELP, STOPPED, Conversation, Screen, answer, talk
    from ..client.gateway import connect, stream_chat

    options = {"max_tokens": max_tokens, "temperature": temperature}
    given = {name: value for name, value in options.items() if value is not None}
    screen = Screen(sys.stdout, sys.stderr)
    conversation = Conversation(system=system)
    with connect(find_endpoint(endpoint, state_dir), api_key()) as gateway:
        name = model or _only_model(gateway)

        def ask(messages: Sequence[Mapping[str, str]]) -> Generator[Event, None, None]:
            return stream_chat(gateway, name, messages, **given)

        if message is not None:
            if answer(ask, conversation, message, screen) == STOPPED:
                raise typer.Exit(130)
            return
        if sys.stdin.isatty():
            import readline  # noqa: F401  input() edits lines with it

            screen.line(f"{name}: {HELP}")
            talk(ask, conversation, input, screen)
        else:
            talk(ask, conversation, lambda _: input(), screen)


def _only_model(gateway: httpx.Client) -> str:
    """EndpointError unless there is exactly one deployment."""
    from ..client.gateway import list_models
    from ..errors import EndpointError

    listed = list_models(gateway)
    by_deployment = {str(m.get("root", m.get("id"))): str(m.get("id")) for m in listed}
    if len(by_deployment) == 1:
        return next(iter(by_deployment.values()))
    names = ", ".join(by_deployment) or "none"
    raise EndpointError(f"say which model: the gateway has {names}")
