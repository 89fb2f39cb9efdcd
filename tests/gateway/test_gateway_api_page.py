"""docs/api.md and the code say the same about errors and limits."""

import re
from collections.abc import Iterator
from pathlib import Path

from modelfleet_gateway.errors import GatewayError
from modelfleet_gateway.openai_api import bulk, chat, fields
from modelfleet_gateway.options import ConnectionLimits, Options
from modelfleet_worker.serving import requests

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
ROW = re.compile(r"^\| (\d{3}) \| (`[^|]*`) \| ", re.MULTILINE)


def all_errors(kind: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    for error in kind.__subclasses__():
        yield error
        yield from all_errors(error)


def test_every_error_of_the_code_is_in_the_table_and_no_other():
    described = {
        (int(status), code)
        for status, codes in ROW.findall(PAGE)
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert described == {(error.status, error.code) for error in all_errors()}


def test_the_limits_are_those_described():
    limits, options = ConnectionLimits(), Options(operator="")
    for said in (
        f"{options.max_body_bytes >> 20} MiB",
        f"{options.max_held_bytes >> 20} MiB",
        f"{limits.header_bytes >> 10} KiB",
        f"{limits.header_time:g} s for headers, {limits.body_time:g} s for the body "
        f"({limits.upload_time:g} s for a file's)",
        f"{limits.idle_time:g} s without a request",
        f"{limits.stall_time:g} s in which it reads nothing",
        f"{chat.MAX_MESSAGES:,} messages",
        f"{bulk.MAX_IDS:,} token ids",
        f"{bulk.MAX_VALUES:,} other JSON values",
        f"`n` (at most {fields.MAX_N})",
        f"`stop` (at most {fields.MAX_STOPS} of {fields.MAX_STOP_LENGTH:,} characters)",
        f"`stop_token_ids` (at most {fields.MAX_STOP_TOKENS:,})",
    ):
        assert said in PAGE.replace("\n", " "), said


def test_workers_take_what_gateways_let_through():
    assert requests.MAX_STOP_STRINGS >= fields.MAX_STOPS
    assert requests.MAX_STOP_CHARACTERS >= fields.MAX_STOP_LENGTH
    assert requests.MAX_STOP_TOKEN_IDS >= fields.MAX_STOP_TOKENS
