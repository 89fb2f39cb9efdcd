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
from weakref import WeakKeyDictionary

from typing_extensions import override

from modelfleet_process.calibration import Calibration, CalibrationError

from ..engine.device import Computation, FinishedStep, LoadedModel, Runner, SampledToken
from ..engine.messages import TokenLogprobs
from ..engine.request import EngineLimits, Sequence
from ..engine.scheduler import BLOCK_SIZE, Chunk
from ..errors import ModelError
from ..progress import Report
from .masks import Allowed, allowed_tokens

END_OF_SEQUENCE = 0
_SHORTEST, _LENGTHS = 16, 112  # answers end by themselves after 16 to 127 tokens


def read_calibration(path: Path) -> Calibration:
    """From a JSON file that says what differs from the defaults. Raises ModelError."""
    try:
        return Calibration.read(path)
    except CalibrationError as error:
        raise ModelError(str(error)) from error


def step_duration(calibration: Calibration, chunks: Items[Chunk]) -> float:
    """Seconds that a step with these chunks takes."""
    decodes = sum(chunk.num_scheduled_tokens == 1 for chunk in chunks)
    prefilled = sum(chunk.num_scheduled_tokens for chunk in chunks) - decodes
    return calibration.step_time(decodes, prefilled)


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
        self._sleep(step_duration(self._calibration, chunks))
        sampling = [chunk.sequence for chunk in chunks if chunk.samples]
        if not any(chunk.is_constrained for chunk in chunks):
            return FinishedStep([self._sample(sequence) for sequence in sampling])
        allowed = allowed_tokens(chunks, self._calibration.vocab_size)
        return FinishedStep([self._sample(s, allowed.get(row)) for row, s in enumerate(sampling)])

    def _sample(self, sequence: Sequence, allowed: Allowed | None = None) -> SampledToken:
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
        if allowed is not None and not allowed[token_id] and allowed.any():
            choices = allowed.nonzero()[0]  # the next one that may come, around the end
            token_id = int(choices[choices.searchsorted(token_id) % len(choices)])
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
    # The answers depend on nothing else: workers of different speed may take over.
    digest = f"paced-{calibration.vocab_size}"
    return LoadedModel(
        runner=runner,
        limits=EngineLimits(
            context_length=context_length or calibration.context_length,
            kv_tokens=runner.num_blocks * BLOCK_SIZE,
            max_sequences=max_sequences or calibration.max_sequences,
            vocab_size=calibration.vocab_size,
        ),
        digest=digest,
        weights_digest=digest,
        eos_token_ids=frozenset({END_OF_SEQUENCE}),
        computation=Computation(
            path="paced", dtype="", threads=1, arithmetic="paced", draws="paced"
        ),
    )
