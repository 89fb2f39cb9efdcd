"""`/v1/responses`: from a body to what is asked of workers, with what was kept of earlier ones."""

from __future__ import annotations

from ..errors import UnknownResponseError, UnsupportedFieldError, quoted
from ..openai_api.answer import Json
from ..openai_api.bulk import Bulk
from ..openai_api.fields import Asked
from ..openai_api.translated import ask, expanded, prompts_of, read_fields
from .items import messages_of
from .request import InputFields, ResponsesRequest
from .store import ResponseStore


class ResponsesReader:
    """Reads requests; `store` is None where nothing is kept."""

    def __init__(self, store: ResponseStore | None) -> None:
        self._store = store

    def read(
        self, body: bytearray, created: float, bulk: Bulk | None = None, *, owner: str = ""
    ) -> Asked:
        """A request from its JSON; InvalidRequestError names the field and what was expected.

        `owner`: the tenant, who goes on from its own responses only.
        """
        request = read_fields(ResponsesRequest, body, created, bulk)
        history = self._history(request, created, owner)
        store = self._store
        if store is not None and request.store is not False:
            messages = [*history, *expanded(request.own_messages(bulk), bulk)]

            def keep(response_id: str, output: list[Json]) -> None:
                kept = [*messages, *messages_of(output, None)]
                store.put(response_id, kept, created, owner)

            request.keep_with(keep)
        return ask(request, created, bulk)

    def read_input(
        self, body: bytearray, created: float, bulk: Bulk | None = None, *, owner: str = ""
    ) -> tuple[InputFields, str, bytes]:
        """A request to count its tokens, its model as the client named it, and its prompt."""
        request = read_fields(InputFields, body, created, bulk)
        self._history(request, created, owner)
        (prompt,) = prompts_of(request, created, bulk)
        return request, expanded(request.model, bulk), prompt

    def _history(self, request: InputFields, now: float, owner: str) -> list[Json]:
        """The messages before its input, which it is told, too."""
        previous = request.previous_response_id
        if previous is None:
            return []
        if self._store is None:
            raise UnsupportedFieldError(
                "'previous_response_id' is not supported here: this gateway keeps no responses "
                "(--keep-responses). Send the whole conversation as 'input'.",
                param="previous_response_id",
            )
        history = self._store.get(previous, now, owner)
        if history is None:
            raise UnknownResponseError(
                f"The response {quoted(previous)} is not kept here, or not any more. Send the "
                "whole conversation as 'input'.",
                param="previous_response_id",
            )
        request.go_on_after(history)
        return history
