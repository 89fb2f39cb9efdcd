"""What all commands have in common."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer

from modelfleet_process.command_line import STYLE, run_app
from modelfleet_process.options import LogFormat, LogLevel, LogOptions, takes_log_options


class WrongError(Exception):
    pass


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(add_completion=False, **STYLE)

    @app.command()
    @takes_log_options(LogFormat.JSON)
    def command(
        *, logs: LogOptions, count: Annotated[int, typer.Option(help="How many.")] = 1
    ) -> int:
        """Do it."""
        if count == 7:
            raise WrongError("seven\nis not possible")
        assert logs.format is LogFormat.JSON
        return {LogLevel.DEBUG: 10, LogLevel.INFO: 0}[logs.level]

    return app


def ran(app: typer.Typer, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["python -m something", *arguments])
    return run_app(app, "modelfleet it", (WrongError,))


def test_a_command_gets_its_log_options_as_one_value(app, monkeypatch):
    assert ran(app, monkeypatch) == 0
    assert ran(app, monkeypatch, "-v") == 10


def test_help_has_the_name_that_users_type(app, monkeypatch, capsys):
    assert ran(app, monkeypatch, "-h") == 0
    told = capsys.readouterr().out
    assert "Usage: modelfleet it" in told
    assert "python" not in told
    for option in ("--count", "--log-format", "--log-level", "--verbose", "--quiet"):
        assert option in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--count", "x"], "error: Invalid value for '--count'"),
        (["--cuont", "3"], "error: No such option: --cuont"),
        (["-v", "-q"], "error: Invalid value for --verbose, --quiet: choose one of -v and -q"),
        (["--count", "7"], "error: seven is not possible"),
    ],
)
def test_what_is_wrong_is_one_line_and_code_2(app, monkeypatch, capsys, arguments, said):
    assert ran(app, monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
