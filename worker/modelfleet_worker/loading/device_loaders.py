"""From a spec to a model that an engine can run; on the device that the process was started for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Thread

from modelfleet_process.calibration import Calibration

from ..devices.paced import load_paced
from ..engine.device import LoadedModel
from ..errors import ModelError
from ..models.encoder import task_of
from ..models.generation_config import NO_DEFAULTS, SamplingDefaults, sampling_defaults
from ..progress import Report
from ..spec import Dtype, GenerationDefaults, ModelSpec
from ..storage.cache import Cache
from ..storage.entry import LocalModel
from ..storage.sources import find_model, parse_source
from ..task import Task
from ..text.paced import PacedTokenizer
from ..text.tokenizer import Tokenizer
from .encoder import LoadedEncoder, load_encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model with its text side. `digest` is equal where a stream may be resumed."""

    spec: ModelSpec
    model: LoadedModel
    tokenizer: Tokenizer
    files: LocalModel | None = None  # in use: kept in the cache as long as this lives
    sampling_defaults: SamplingDefaults = NO_DEFAULTS

    @property
    def digest(self) -> str:
        """Of weights, dtype, quantization, tokenizer, chat template and sampling defaults."""
        return self._digest(self.model.digest)

    @property
    def weights_digest(self) -> str:
        """The same but for the arithmetic; empty where only equal bits may continue a stream."""
        return "" if self.spec.deterministic else self._digest(self.model.weights_digest)

    def _digest(self, model: str) -> str:
        parts = f"{model} {self.tokenizer.digest} {sorted(self.eos_ids)}"
        if self.sampling_defaults != NO_DEFAULTS:
            parts += f" {self.sampling_defaults!r}"
        return hashlib.sha256(parts.encode()).hexdigest()

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer: the model's own and the tokenizer's."""
        return self.model.eos_token_ids | self.tokenizer.eos_ids


_COMPILED = (Dtype.AUTO, Dtype.BFLOAT16)  # types that the compiled step may compute

# Runs in a thread; raises ModelError, and what `report` raises.
Loader = Callable[[ModelSpec, Report], Loaded | LoadedEncoder]


def paced_loader(calibration: Calibration) -> Loader:
    """No model: the spec's source is only checked, its limits are obeyed."""

    def load(spec: ModelSpec, report: Report) -> Loaded | LoadedEncoder:
        parse_source(spec.source)
        if spec.task is Task.EMBED:
            raise ModelError("the paced device makes no embeddings: use another --device")
        model = load_paced(
            calibration,
            context_length=spec.context_length,
            max_sequences=spec.max_sequences,
            progress=report,
        )
        return Loaded(spec=spec, model=model, tokenizer=PacedTokenizer(model.limits.vocab_size))

    return load


def cpu_loader(model_dir: Path, cache: Cache) -> Loader:
    """This machine's processors; `model_dir` may hold local copies of hub models."""

    def load(spec: ModelSpec, report: Report) -> Loaded | LoadedEncoder:
        if spec.dtype not in _COMPILED:  # what it takes to compute comes while files are fetched
            Thread(target=import_module, args=(".torch_llama", __package__), daemon=True).start()
        files = find_model(
            spec.source, revision=spec.revision, model_dir=model_dir, cache=cache, report=report
        )
        report("Imports", 0.0)
        task = task_of(files.folder) if spec.task is Task.AUTO else spec.task
        if task is Task.EMBED:
            return load_encoder(spec, files, report)
        from ..text.huggingface import HuggingFaceTokenizer
        from .loader import load_model

        defaults = NO_DEFAULTS
        if spec.generation_defaults is GenerationDefaults.CHECKPOINT:
            defaults = sampling_defaults(files.folder)
        # Beside the weights: what shows there is wrong with it ends the load at its next report.
        # Not before they are laid out: reading it holds the GIL, which gathering them needs.
        with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as pool:
            tokenizers: list[Future[HuggingFaceTokenizer]] = []

            def tokenizer() -> Future[HuggingFaceTokenizer]:
                if not tokenizers:
                    parsers = {
                        "tool_parser": spec.tool_parser,
                        "reasoning_parser": spec.reasoning_parser,
                    }
                    tokenizers.append(pool.submit(HuggingFaceTokenizer, files.folder, **parsers))
                return tokenizers[0]

            def report_unless_failed(phase: str, share: float) -> None:
                if share > 0 and tokenizer().done():
                    tokenizer().result()
                report(phase, share)

            model = load_model(
                files.folder,
                dtype=spec.dtype,
                quantization=spec.quantization,
                context_length=spec.context_length,
                kv_cache_bytes=spec.kv_cache_bytes,
                max_sequences=spec.max_sequences or 64,
                max_batch_tokens=spec.max_batch_tokens,
                deterministic=spec.deterministic,
                progress=report_unless_failed,
            )
            return Loaded(
                spec=spec,
                model=model,
                tokenizer=tokenizer().result(),
                files=files,
                sampling_defaults=defaults,
            )

    return load
