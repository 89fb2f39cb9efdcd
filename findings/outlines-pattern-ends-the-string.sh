#!/usr/bin/env bash
# A JSON Schema whose `pattern` has an alternative ("^low|high$") lets outlines-core write text that is no JSON; one with a
# single anchor ("^a") is refused as a fault of the vocabulary.
#
# Versions: outlines-core 0.2.14 (OUTLINES_CORE=... tries another), which outlines and vLLM's backend of that name use.
# Input:    {"type": "object", "properties": {"level": {"type": "string", "pattern": P}, "count": {"type": "integer"}}}
#           with both required, a vocabulary of the printable characters, and a Guide that takes the tokens of a text.
# Expected: what a Guide calls finished is JSON and fits the schema. A pattern matches anywhere in the string, unless it
#           has ^ or $ (JSON Schema, 6.3.3: patterns are not anchored).
# Instead:  the anchors are cut off where both are there, and the rest is put between quotes without a group: the regular
#           expression says ("low|high"), so one alternative lacks the closing quote and the other the opening one. Where
#           only one anchor is there it stays in the midst of the expression, which then matches nothing; the
#           error blames the vocabulary.
# Matters:  the promise of guided decoding is that json.loads never fails. It fails for each answer here, and the schema
#           is valid and compiles; enumerations are often written as such patterns.
#
# Seen:
#   outlines-core 0.2.14
#   ^low|high$    finished: {"level":"low,"count":1}      no JSON
#   low|high      finished: {"level":"low,"count":1}      no JSON
#   ^(low|high)$  finished: {"level":"low","count":1}     JSON
#   ^low          refused:  The vocabulary provided is incompatible with the regex
#   AS DESCRIBED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
export VIRTUAL_ENV=$work/venv PATH=$work/venv/bin:$PATH
${PIP:-pip} install --quiet "outlines-core==${OUTLINES_CORE:-0.2.14}" || { echo "INSTALLATION FAILED"; exit 2; }

cat >"$work/probe.py" <<'PY'
import importlib.metadata
import json
import sys

from outlines_core import Guide, Index, Vocabulary, json_schema

print("outlines-core", importlib.metadata.version("outlines_core"))
CHARACTERS = [chr(code) for code in range(32, 127)]
VOCABULARY = Vocabulary(0, {character: [number] for number, character in enumerate(CHARACTERS, 1)})


def finishes(guide, text):
    for character in text:
        token = CHARACTERS.index(character) + 1
        if token not in guide.get_tokens():
            return False
        guide.advance(token)
    return guide.is_finished()


def outcome(pattern):
    """What is written for `low`, with and without the quote at its end."""
    schema = {
        "type": "object",
        "properties": {"level": {"type": "string", "pattern": pattern}, "count": {"type": "integer"}},
        "required": ["level", "count"],
    }
    expression = json_schema.build_regex_from_schema(json.dumps(schema), whitespace_pattern="")
    try:
        index = Index(expression, VOCABULARY)
    except ValueError as error:
        return f"refused:  {str(error).partition(' ' + chr(39))[0]}"
    for text in ('{"level":"low,"count":1}', '{"level":"low","count":1}'):
        if finishes(Guide(index), text):
            try:
                json.loads(text)
            except json.JSONDecodeError:
                return f"finished: {text:<29} no JSON"
            return f"finished: {text:<29} JSON"
    return "finished: neither"


seen = {pattern: outcome(pattern) for pattern in ("^low|high$", "low|high", "^(low|high)$", "^low")}
for pattern, what in seen.items():
    print(f"{pattern:<13} {what}")
first, second, grouped, anchored = seen.values()
described = (
    first.endswith(" no JSON")
    and second.endswith(" no JSON")
    and grouped.endswith("  JSON")
    and anchored.startswith("refused:  The vocabulary")
)
print("AS DESCRIBED" if described else "CHANGED")
sys.exit(0 if described else 1)
PY
python "$work/probe.py"
