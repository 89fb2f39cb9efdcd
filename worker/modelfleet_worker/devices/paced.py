"""A device without a model: it takes the time that a calibration says.

The ids it returns depend only on the request and the position, so that a stream resumed on another
worker goes on identically. Vocabulary rule: id 0 is the end of sequence, 1 to vocab_size - 1 are
words.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Self
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import override

from ..engine.device import FinishedStep, LoadedModel, Runner, SampledToken
from ..engine.messages import TokenLogprobs
from ..engine.request import EngineLimits, Sequence
from ..engine.scheduler import BLOCK_SIZE, Chunk
from ..errors import ModelError
from ..progress import Report

END_OF_SEQUENCE = 0
_SHORTEST, _LENGTHS = 16, 112  # answers end by themselves after 16 to 127 tokens


class Calibration(BaseModel):
    """What a device takes. Times in seconds; sizes in tokens or sequences."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step_seconds: float = Field(default=0.005, ge=0)  # each step
    prefill_token_seconds: float = Field(default=0.0002, ge=0)  # each token of a prefill chunk
    decode_sequence_seconds: float = Field(default=0.0005, ge=0)  # each decoding sequence
    load_seconds: float = Field(default=1.0, ge=0)
    max_sequences: int = Field(default=64, ge=1)
    kv_tokens: int = Field(default=65536, ge=BLOCK_SIZE)
    context_length: int = Field(default=8192, ge=2)
    vocab_size: int = Field(default=4096, ge=2)

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a JSON file that says what differs from the defaults. Raises ModelError."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ModelError(f"the calibration {path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()
            )
            fields = ", ".join(cls.model_fields)
            raise ModelError(f"the calibration {path}: {wrong} (its fields: {fields})") from error

    def duration(self, chunks: Items[Chunk]) -> float:
        """Seconds that a step with these chunks takes."""
        decodes = sum(chunk.num_scheduled_tokens == 1 for chunk in chunks)
        prefilled = sum(chunk.num_scheduled_tokens for chunk in chunks) - decodes
        return (
            self.step_seconds
            + prefilled * self.prefill_token_seconds
            + decodes * self.decode_sequence_seconds
        )


class PacedRunner(Runner):
    """Sleeps as long as the device would compute."""

    def __init__(
        self, calibration: Calibration, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.num_blocks = calibration.kv_tokens // BLOCK_SIZE
        self._calibration = calibration
        self._sleep = sleep
        self._keys: WeakKeyDictionary[Sequence, bytes] = WeakKeyDictionary()

    @override
    def launch(self, chunks: Items[Chunk]) -> FinishedStep:
        """Takes the step's time."""
        self._sleep(self._calibration.duration(chunks))
        return FinishedStep([self._sample(chunk.sequence) for chunk in chunks if chunk.samples])

    def _sample(self, sequence: Sequence) -> SampledToken:
        key = self._keys.get(sequence)
        if key is None:
            key = self._keys[sequence] = _key(sequence)
        length = _SHORTEST + int.from_bytes(key[:8], "little") % _LENGTHS
        position = sequence.num_output_tokens
        if position >= length - 1 and END_OF_SEQUENCE in sequence.request.stop_token_ids:
            token_id = END_OF_SEQUENCE
        else:
            drawn = hashlib.blake2b(position.to_bytes(8, "little"), key=key, digest_size=8)
            words = self._calibration.vocab_size - 1
            token_id = 1 + int.from_bytes(drawn.digest(), "little") % words
        alternatives = sequence.request.sampling.logprobs
        if alternatives is None:
            return SampledToken(token_id)
        return SampledToken(token_id, TokenLogprobs(0.0, ((token_id, 0.0),)[:alternatives]))


def _key(sequence: Sequence) -> bytes:
    """All that the answer depends on; a greedy one not on seed and choice."""
    request, sampling = sequence.request, sequence.request.sampling
    key = hashlib.blake2b(array("I", request.prompt_ids).tobytes(), digest_size=32)
    if sampling.temperature > 0:
        key.update(sampling.seed.to_bytes(8, "little") + sampling.choice.to_bytes(4, "little"))
    return key.digest()


def load_paced(
    calibration: Calibration,
    *,
    context_length: int | None = None,
    max_sequences: int | None = None,
    progress: Report,
) -> LoadedModel:
    """Takes the load's time; limits given here replace the calibration's."""
    if context_length is not None and context_length > calibration.context_length:
        raise ModelError(
            f"contextLength is {context_length}, but the calibrated model's context holds"
            f" {calibration.context_length}"
        )
    steps = max(1, min(100, round(calibration.load_seconds / 0.05)))
    for done in range(steps):
        progress("Weights", done / steps)
        time.sleep(calibration.load_seconds / steps)
    progress("Weights", 1.0)
    runner = PacedRunner(calibration)
    return LoadedModel(
        runner=runner,
        limits=EngineLimits(
            context_length=context_length or calibration.context_length,
            kv_tokens=runner.num_blocks * BLOCK_SIZE,
            max_sequences=max_sequences or calibration.max_sequences,
            vocab_size=calibration.vocab_size,
        ),
        # The answers depend on nothing else: workers of different speed may take over.
        digest=f"paced-{calibration.vocab_size}",
        eos_token_ids=frozenset({END_OF_SEQUENCE}),
    )
