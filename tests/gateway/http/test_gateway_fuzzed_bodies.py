"""Bodies that are nearly right, of every API: no 5xx, and each error in its API's own shape."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelfleet_gateway.errors import GatewayError
from modelfleet_gateway.http.dialects import dialect_of
from modelfleet_gateway.openai_api.bulk import cut
from gateway_doubles import ScriptedWorker, running_fleet

TEXT = "hello"
CALL = {"name": "f", "arguments": "{}"}
# Of each path a body with everything that it may have; what is fuzzed is made of these.
BODIES: dict[str, dict[str, Any]] = {}
