"""What every client is tried with, and how a check tells the runner what became of it."""

import asyncio
import inspect
import json
import os
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

URL = os.environ["MODELFLEET_URL"]  # http://HOST:PORT
MODEL = os.environ["MODELFLEET_MODEL"]
ENCODER = os.environ["MODELFLEET_ENCODER"]  # a model that embeds
SIZE = 384  # of its vectors
QUESTION = "How is the weather in Rome on the second day?"
LIMIT = 512  # tokens: more than an answer below takes, if the model comes to an end at all


class Forecast(BaseModel):
    """The weather of one day in one city."""

    city: Literal["Paris", "Rome", "Vienna"]
    day: int = Field(ge=1, le=9)


def weather(city: Literal["Paris", "Rome", "Vienna"], day: int) -> str:
    """The weather in a city.

    Args:
        city: The city.
        day: The day, counted from 1.
    """
    return f"{city} is sunny on day {day}"


PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome", "Vienna"]},
        "day": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "day"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": PARAMETERS,
    },
}


def check(**paths: Callable[[], Any]) -> None:
    """Tries each; a line of JSON for each says how it went."""
    loop = asyncio.new_event_loop()  # one for all: clients keep their connections
    for name, path in paths.items():
        try:
            if inspect.isawaitable(result := path()):
                loop.run_until_complete(result)
        except Exception as error:  # whatever a client raises is its answer
            why = " ".join(f"{type(error).__name__}: {error}".split())
            print(json.dumps({"path": name, "why": why[:300]}), flush=True)
        else:
            print(json.dumps({"path": name, "why": ""}), flush=True)
