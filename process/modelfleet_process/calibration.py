"""What a worker takes: the timing file that the paced device and the simulator read.

`benchmarks/calibrate.py` writes one by measuring a real worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class CalibrationError(Exception):
    """A timing file that cannot be used; the message names the file and the field."""


class Calibration(BaseModel):
    """What a device takes. Times in seconds; sizes in tokens or sequences."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = ""  # what was measured, as spec.model.source says it; empty: not known
    measured_on: str = ""  # processor and date, for a person
    step_seconds: float = Field(default=0.005, ge=0)  # each step
    shortest_step_seconds: float = Field(default=0.0, ge=0)  # a decode step is never shorter
    prefill_token_seconds: float = Field(default=0.0002, ge=0)  # each token of a prefill chunk
    decode_sequence_seconds: float = Field(default=0.0005, ge=0)  # each decoding sequence
    # Of each request outside the engine's steps; the paced device has its own.
    request_seconds: float = Field(default=0.0, ge=0)
    load_seconds: float = Field(default=1.0, ge=0)
    max_sequences: int = Field(default=64, ge=1)
    kv_tokens: int = Field(default=65536, ge=16)
    context_length: int = Field(default=8192, ge=2)
    vocab_size: int = Field(default=4096, ge=2)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a JSON file that says what differs from the defaults. Raises CalibrationError."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise CalibrationError(
                f"the calibration {path} cannot be read: {error.strerror}"
            ) from error
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()
            )
            fields = ", ".join(cls.model_fields)
            raise CalibrationError(
                f"the calibration {path}: {wrong} (its fields: {fields})"
            ) from error

    def step_time(self, decodes: int, prefilled: int) -> float:
        """Seconds of a step that decodes so many sequences and prefills so many tokens.

        step 5 ms, each sequence 0.5 ms, each token of a prompt 0.2 ms: 8 decodes -> 9 ms; beside
        100 tokens of a prompt -> 29 ms.
        """
        decoding = self.step_seconds + decodes * self.decode_sequence_seconds
        if decodes and decoding < self.shortest_step_seconds:
            decoding = self.shortest_step_seconds
        return decoding + prefilled * self.prefill_token_seconds
