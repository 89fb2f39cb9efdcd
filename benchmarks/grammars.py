"""llguidance, as our worker uses it, beside xgrammar: what schemas cost, and what is held to.

xgrammar is taken from a folder: `uv pip install --no-deps --target FOLDER xgrammar apache-tvm-ffi`
(torch and transformers are those of the tests), then

    python benchmarks/grammars.py $(python tools/prepare_smollm2.py) --packages FOLDER

Times are processor time of one thread, so that a busy machine hardly changes them. Each schema is
compiled once and is new. An answer is followed token by token: a valid one that jsonschema knows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

import machine
from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.constraint import Grammars
from modelfleet_worker.text.grammar import Grammar
from modelfleet_worker.text.huggingface import HuggingFaceTokenizer
from structured_output import two_kilobytes

AB = {"a": 1, "b": 2}
# A schema, values that are valid by it, and values that are not.
KEYWORDS: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "minimum, maximum": ({"type": "integer", "minimum": 2, "maximum": 9}, [2, 9], [1, 10]),
    "multipleOf": ({"type": "integer", "multipleOf": 5}, [10], [11]),
    "minLength, maxLength": ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab"], ["a"]),
    "pattern, as a search": ({"type": "string", "pattern": "[0-9]"}, ["a1b"], ["ab"]),
    "pattern with lengths": (
        {"type": "string", "pattern": "^[a-z]+$", "maxLength": 2},
        ["ab"],
        ["abc", "1"],
    ),
    "format date": ({"type": "string", "format": "date"}, ["2026-11-30"], ["2026-13-30"]),
    "format with lengths": (
        {"type": "string", "format": "email", "maxLength": 5},
        ["x@y.z"],
        ["xx@yy.zz", "x"],
    ),
    "prefixItems": (
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
        [[1]],
        [["a"], [1, 2]],
    ),
    "minItems, maxItems": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        [[1]],
        [[], [1, 2, 3]],
    ),
    "patternProperties": (
        {
            "type": "object",
            "patternProperties": {"^n": {"type": "integer"}},
            "additionalProperties": False,
        },
        [{"n": 1}],
        [{"n": "x"}, {"m": 1}],
    ),
    "required outside properties": ({"type": "object", "required": ["a"]}, [AB], [{"b": 1}]),
    "anyOf beside properties": (
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "additionalProperties": False,
            "anyOf": [{"required": ["a"]}],
        },
        [{"a": 1}],
        [{}],
    ),
    "siblings of $ref": (
        {"$ref": "#/$defs/x", "maximum": 2, "$defs": {"x": {"type": "integer"}}},
        [1],
        [3],
    ),
    "recursive $ref": (
        {
            "type": "object",
            "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "additionalProperties": False,
        },
        [{"a": {"a": None}}],
        [{"a": 1}],
    ),
    "allOf of two": (
        {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}},
                   {"type": "object", "required": ["a"]}]},
        [{"a": 1}],
        [{}, {"a": "x"}, 1],
    ),
    "oneOf, disjoint": ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, [1, None], ["a"]),
    "oneOf, overlapping": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, [1.5], [1]),
    "uniqueItems": (
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        [[1, 2]],
        [[1, 1]],
    ),
    "contains": ({"type": "array", "contains": {"type": "integer"}}, [[1]], [["a"]]),
    "not": ({"not": {"type": "string"}}, [1], ["a"]),
    "if, then": ({"type": "integer", "if": {"minimum": 5}, "then": {"maximum": 6}}, [1], [9]),
    "dependentRequired": (
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        [AB, {"b": 1}],
        [{"a": 1}],
    ),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^a"}}, [{"a": 1}], [AB]),
    "minProperties": ({"type": "object", "minProperties": 2}, [AB], [{"a": 1}]),
    "maxProperties": ({"type": "object", "maxProperties": 1}, [{"a": 1}], [AB]),
}  # fmt: skip


class Library(ABC):
    name: str
    set_up: float  # seconds, for the tokenizer

    @abstractmethod
    def compile(self, schema: str) -> Any:
        """Raises some exception for what it refuses."""

    @abstractmethod
    def start(self, compiled: Any) -> Any: ...

    @abstractmethod
    def mask(self, matcher: Any) -> None: ...

    @abstractmethod
    def accept(self, matcher: Any, token_id: int) -> bool: ...

    @abstractmethod
    def may_end(self, matcher: Any) -> bool: ...


class Ours(Library):
    def __init__(self, tokenizer: HuggingFaceTokenizer, vocab_size: int) -> None:
        self.name = f"llguidance {version('llguidance')}"
        eos_ids = frozenset(tokenizer.eos_ids)
        self._grammars = Grammars(tokenizer, vocab_size=vocab_size, eos_ids=eos_ids)
        self._row = np.zeros(-(-vocab_size // 32), np.uint32)
        self.set_up = milliseconds(self._grammars.set_up)[0] / 1000

    def compile(self, schema: str) -> Any:
        return self._grammars.compile((Grammar.json_schema(schema), None))

    def start(self, compiled: Any) -> Any:
        return compiled.start()

    def mask(self, matcher: Any) -> None:
        matcher.writer.write([matcher], self._row.ctypes.data, len(self._row))

    def accept(self, matcher: Any, token_id: int) -> bool:
        matcher.accept(token_id)
        return not matcher.matcher.is_error()

    def may_end(self, matcher: Any) -> bool:
        return bool(matcher.matcher.is_accepting())


class XGrammar(Library):
    def __init__(self, folder: Path, vocab_size: int) -> None:
        import transformers
        import xgrammar

        self.name = f"xgrammar {version('xgrammar')}"
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        spent, info = milliseconds(
            lambda: xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size)
        )
        self.set_up = spent / 1000
        self._xgrammar = xgrammar
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._bitmask = xgrammar.allocate_token_bitmask(1, vocab_size)

    def compile(self, schema: str) -> Any:
        return self._compiler.compile_json_schema(schema)

    def start(self, compiled: Any) -> Any:
        return self._xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)

    def mask(self, matcher: Any) -> None:
        matcher.fill_next_token_bitmask(self._bitmask)

    def accept(self, matcher: Any, token_id: int) -> bool:
        return bool(matcher.accept_token(token_id))

    def may_end(self, matcher: Any) -> bool:
        return bool(matcher.is_terminated())


def milliseconds(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.thread_time()
    done = work()
    return (time.thread_time() - begun) * 1000, done


def costs(library: Library, tokenizer: HuggingFaceTokenizer, schemas: int) -> list[str]:
    compiling, masks, accepting = list[float](), list[float](), list[float]()
    for number in range(schemas):
        schema = two_kilobytes(number)
        spent, compiled = milliseconds(lambda text=schema: library.compile(text))  # type: ignore[misc]
        compiling.append(spent)
        matcher = library.start(compiled)
        text = json.dumps(example(json.loads(schema)))
        for token_id in tokenizer.encode(text, add_special_tokens=False):
            masks.append(milliseconds(lambda m=matcher: library.mask(m))[0])  # type: ignore[misc]
            spent, taken = milliseconds(lambda m=matcher, i=token_id: library.accept(m, i))  # type: ignore[misc]
            assert taken, (library.name, text)
            accepting.append(spent)
    return [
        f"{statistics.median(compiling):.1f} ({max(compiling):.1f})",
        f"{statistics.median(masks) * 1000:.0f} ({max(masks):.1f} ms)",
        f"{statistics.median(accepting) * 1000:.0f}",
    ]


def example(schema: dict[str, Any]) -> Any:
    """A value of the schemas of `two_kilobytes`."""
    match schema:
        case {"enum": values}:
            return values[0]
        case {"anyOf": _}:
            return 12.5
        case {"type": "object", "properties": properties}:
            return {name: example(one) for name, one in properties.items()}
        case {"type": "array"}:
            return ["2026-11-30", "2026-12-01"]
        case {"type": "integer"}:
            return 7
    return "a b"


def verdict(library: Library, tokenizer: HuggingFaceTokenizer, keyword: str) -> str:
    schema, valid, invalid = KEYWORDS[keyword]
    validator = jsonschema.Draft202012Validator(schema)
    try:
        compiled = library.compile(json.dumps(schema))
    except (InvalidRequestError, RuntimeError, ValueError):
        return "refused"

    def takes(value: Any) -> bool:
        matcher = library.start(compiled)
        ids = tokenizer.encode(json.dumps(value), add_special_tokens=False)
        for token_id in ids:
            library.mask(matcher)
            if not library.accept(matcher, token_id):
                return False
        return library.may_end(matcher)

    assert all(map(validator.is_valid, valid))
    wrong = [value for value in invalid if takes(value)]
    lost = [value for value in valid if not takes(value)]
    if wrong:
        return f"**not held**: takes `{json.dumps(wrong[0])}`"
    return f"narrower: not `{json.dumps(lost[0])}`" if lost else "held"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="Hugging Face folder (`make model` prints it)")
    parser.add_argument("--packages", type=Path, required=True, help="where xgrammar is")
    parser.add_argument("--schemas", type=int, default=30)
    options = parser.parse_args()
    sys.path.append(str(options.packages))
    vocab_size = json.loads((options.folder / "config.json").read_text())["vocab_size"]
    tokenizer = HuggingFaceTokenizer(options.folder)
    libraries = [Ours(tokenizer, vocab_size), XGrammar(options.folder, vocab_size)]
    print(f"{machine.description()}, {vocab_size} tokens\n")
    print("| | set-up, s | new schema of 2.3 KB, ms (most) | mask, µs (most) | a token, µs |")
    print("|---|---|---|---|---|")
    for library in libraries:
        row = costs(library, tokenizer, options.schemas)
        print(f"| {library.name} | {library.set_up:.2f} | {' | '.join(row)} |", flush=True)
    print(f"\n| | {' | '.join(library.name for library in libraries)} |")
    print("|---|" + "---|" * len(libraries))
    for keyword in KEYWORDS:
        found = [verdict(library, tokenizer, keyword) for library in libraries]
        print(f"| {keyword} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
