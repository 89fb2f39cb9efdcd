"""Bodies of every API that are nearly right: each has everything, and then something is changed."""

import copy
import random
from typing import Any

MESSAGES = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
RIGHT: dict[str, dict[str, Any]] = {
    "/v1/responses": {
        "input": [
            {"role": "developer", "content": "be kind"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": None},
            {"type": "message", "role": "assistant", "content": "ho"},
            {"role": "user", "content": "again"},
        ],
        "instructions": "short",
        "max_output_tokens": 2,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": None},
        "metadata": {"a": "b"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "stream": False,
    },
    "/v1/responses/input_tokens": {"input": [{"role": "user", "content": "x"}], "tools": []},
    "/v1/messages": {
        "max_tokens": 2,
        "system": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "ho"}]},
            {"role": "user", "content": "again"},
        ],
        "stop_sequences": ["x"],
        "temperature": 0.5,
        "metadata": {"user_id": "u"},
        "tools": [],
        "stream": False,
    },
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}], "system": "y"},
    "/api/chat": {
        "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}],
        "options": {"num_predict": 2, "temperature": 0.5, "stop": ["x"], "seed": 1},
        "keep_alive": "5m",
        "stream": False,
    },
    "/api/generate": {"prompt": "x", "system": "y", "raw": False, "options": {"num_predict": 2}},
    "/api/show": {},
    "/tokenize": {"prompt": "x", "add_special_tokens": True, "return_token_strs": True},
    "/detokenize": {"tokens": [120, 121]},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2, "stop": ["x"], "n": 1},
    "/v1/completions": {"prompt": "x", "max_tokens": 2, "logprobs": 1},
}
TOOLS = {
    "/v1/responses": {
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "input": [
            {"role": "user", "content": "x"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "y"},
        ],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}},
        "reasoning": {"effort": "low"},
    },
    "/v1/messages": {
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "messages": [
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": "b"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": "y"}],
            },
        ],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"},
    },
    "/api/chat": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        "messages": [
            {"role": "user", "content": "x"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
            },
            {"role": "tool", "content": "y", "tool_name": "f"},
        ],
        "format": SCHEMA,
        "think": True,
    },
}
ODD: list[Any] = [
    None, True, 0, -1, 2.5, 2**64, 10**400, 1e308, "", "a", "tiny", "é🙂\n\0", "user", "text",
    [], {}, [None], [[]], [{}], {"": None}, {"type": "text"}, {"type": []}, {"type": {}},
    {"type": "function", "name": 1}, "x" * 300, "y" * 70_000, list(range(9000)), "[" * 500,
]  # fmt: skip


def right_body(path: str, chance: random.Random) -> dict[str, Any]:
    """A body of this path to which nothing was done yet; often with tools."""
    body = {"model": "tiny"} | copy.deepcopy(RIGHT[path])
    more = TOOLS.get(path, {})
    for name in more if chance.random() < 0.5 else ():
        if chance.random() < 0.7:
            body[name] = copy.deepcopy(more[name])
    return body


def nearly_right(path: str, chance: random.Random) -> dict[str, Any]:
    """A body in which a few values are others, are gone, or are there twice."""
    body = right_body(path, chance)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 4])):
        change(body, chance)
    return body


def change(body: Any, chance: random.Random) -> None:
    """Changes one value somewhere in it."""
    while True:
        keys = list(body) if isinstance(body, dict) else list(range(len(body)))
        if not keys:
            return
        key = chance.choice(keys)
        inner = body[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.75:
            body = inner
            continue
        how = chance.random()
        if how < 0.7:
            body[key] = copy.deepcopy(chance.choice(ODD))
        elif how < 0.85:
            del body[key]
        elif isinstance(body, list):
            body.append(copy.deepcopy(inner))
        else:
            body[f"{key}_"] = inner
        return
