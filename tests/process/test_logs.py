"""The logs that all parts have in common: levels, formats, the lines of libraries."""

import json
import subprocess
import sys

import pytest
import typer

from modelfleet_process.options import LogLevel, chosen_level

SAY = """
import logging, structlog
from modelfleet_process.logs import configure, console_style
from modelfleet_process.options import LogFormat, LogLevel
configure(LogFormat({format!r}), LogLevel({level!r}), console_style(utc=True))
{body}
"""
BOTH = """
log = structlog.get_logger()
for level in ("debug", "info", "warning", "error"):
    getattr(log, level)(f"our {level}", request="r1")
    getattr(logging.getLogger("library"), level)(f"its {level}")
"""


def said(body: str, level: str = "info", log_format: str = "json") -> list[str]:
    """Lines on standard error of a process that logs."""
    done = subprocess.run(
        [sys.executable, "-c", SAY.format(format=log_format, level=level, body=body)],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == ""
    return done.stderr.splitlines()


def events(body: str, level: str = "info") -> list[str]:
    return [json.loads(line)["event"] for line in said(body, level)]


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        ("debug", ["our debug", "our info", "its info", "our warning", "its warning"]),
        ("info", ["our info", "our warning", "its warning"]),
        ("warning", ["our warning", "its warning"]),
        ("error", []),
    ],
)
def test_a_level_drops_what_matters_less_and_libraries_info_belongs_to_debug(
    level: str, lines: list[str]
):
    assert events(BOTH, level) == [*lines, "our error", "its error"]


def test_a_json_line_has_our_fields_and_a_librarys_line_its_name():
    ours, its = (json.loads(line) for line in said(BOTH, "error"))
    assert ours.keys() == {"request", "event", "level", "timestamp"}
    assert its.keys() == {"event", "level", "logger", "timestamp"}
    assert its["logger"] == "library"


def test_text_is_one_line_for_a_person():
    ours, _ = said(BOTH, "error", "text")
    assert "our error" in ours
    assert "request" in ours
    with pytest.raises(json.JSONDecodeError):
        json.loads(ours)


def test_an_exception_is_a_field_of_its_line():
    body = """
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("ours")
    logging.getLogger("library").exception("its")
"""
    for line in said(body):
        assert "ZeroDivisionError: division by zero" in json.loads(line)["exception"]


CONFIGURES_ITSELF = """
def warn_and_inform(library):
    logger = logging.getLogger(library)
    logger.addHandler(logging.StreamHandler())
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logging.getLogger(f"{library}.part").info("progress")
warn_and_inform("huggingface_hub")
"""


def test_a_library_that_sets_up_its_own_logger_is_logged_like_any_other():
    assert events(CONFIGURES_ITSELF, "debug") == ["progress"]
    assert events(CONFIGURES_ITSELF, "info") == []


@pytest.mark.parametrize(
    ("log_level", "flags", "chosen"),
    [
        pytest.param("error", {}, "error", id="the level itself"),
        pytest.param("error", {"verbose": True}, "debug", id="-v wins over it"),
        pytest.param("debug", {"quiet": True}, "warning", id="and -q does"),
    ],
)
def test_short_options_win(log_level: str, flags: dict[str, bool], chosen: str):
    both = {"verbose": False, "quiet": False} | flags
    assert chosen_level(LogLevel(log_level), **both) is LogLevel(chosen)


def test_verbose_and_quiet_exclude_each_other():
    with pytest.raises(typer.BadParameter, match="choose one"):
        chosen_level(LogLevel.INFO, verbose=True, quiet=True)


RAISE = """
def fail(prompt):
    raise ValueError("a bug")
try:
    fail("very " + "private")
except ValueError:
    structlog.get_logger().exception("ours")
    logging.getLogger("library").exception("its")
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_shows_no_variables(log_format: str):
    text = "\n".join(said(RAISE, log_format=log_format))
    assert text.count("ValueError: a bug") == 2
    assert "very private" not in text
