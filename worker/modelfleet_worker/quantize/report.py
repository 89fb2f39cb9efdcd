"""What `quantize` did and what it cost, for users of the checkpoint."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .calibration import WINDOW, default_text
from .checkpoints import QuantizeOptions
from .evaluation import Cost
from .routing import Routing

NAME = "quantization_report.json"
# Of the perplexity, beyond the original's: int8 stays far below, int4 of a large model about there.
NOTABLE_LOSS = 0.05
_DEFAULT_TEXT = "the reference of the Python language (pydoc_data.topics)"
_PACKAGES = ("modelfleet", "torch", "transformers", "safetensors")


@dataclass(frozen=True, slots=True)
class NamedText:
    """A text and the file that it came from."""

    file: str
    text: str

    def described(self) -> dict[str, str]:
        """Enough to know the same text again."""
        return {"file": self.file, "sha256": hashlib.sha256(self.text.encode()).hexdigest()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured, on which text."""

    text: NamedText
    cost: Cost
    routing: Routing | None = None  # of a model with experts


def write_report(
    target: Path,
    *,
    source: str,
    revision: str | None,
    options: QuantizeOptions,
    calibration: NamedText | None,
    evaluation: Evaluation | None,
) -> None:
    """`revision` is a hub's; `calibration` is the text if it is not the default one."""
    text = calibration or NamedText(_DEFAULT_TEXT, default_text())
    report: dict[str, Any] = {
        "source": source,
        "revision": revision,
        "method": str(options.method),
        "weights": str(options.quantization.weights),
        "group_size": options.group_size if options.quantization.weights == "int4" else None,
        "overrides": [str(override) for override in options.overrides],
        "calibration": (
            {**text.described(), "samples": options.samples, "tokens_a_sample": WINDOW}
            if options.calibrates
            else None
        ),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "evaluation": None,
        "warnings": [],
    }
    if evaluation is not None:
        report["evaluation"] = {**evaluation.text.described(), **asdict(evaluation.cost)}
        if (routing := evaluation.routing) is not None:
            report["evaluation"]["routing"] = {
                **asdict(routing),
                "changed_share": routing.changed_share,
            }
        report["warnings"] = [w for w in [loss_warning(evaluation.cost)] if w is not None]
    (target / NAME).write_text(json.dumps(report, indent=2) + "\n")


def loss_warning(cost: Cost) -> str | None:
    """For a loss beyond NOTABLE_LOSS that chance does not explain."""
    if cost.perplexity_ratio.low <= 1 + NOTABLE_LOSS:
        return None
    return (
        f"the perplexity is {cost.perplexity_ratio.value - 1:.0%} above the original's, more than "
        f"{NOTABLE_LOSS:.0%}: int8, a smaller --group-size, gptq or --override '*.down_proj=int8' "
        "lose less"
    )
