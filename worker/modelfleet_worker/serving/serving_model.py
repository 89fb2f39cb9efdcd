"""What was loaded, while it serves: a model or an encoder, with the engine that computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..engine.device import Computation
from ..engine.embedding import EmbeddingEngine
from ..engine.engine import Engine
from ..engine.messages import EngineFailure, StepOutput
from ..loading.device_loaders import Loaded
from ..loading.encoder import LoadedEncoder
from ..models.generation_config import SamplingDefaults
from ..spec import ModelSpec
from ..storage.entry import LocalModel
from ..task import Task
from ..text.constraint import Grammars
from ..text.sentences import SentenceTokenizer
from ..text.tokenizer import Tokenizer

Receive = Callable[[StepOutput | EngineFailure], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingModel:
    """A model in memory with the engine that computes it."""

    spec: ModelSpec
    engine: Engine
    tokenizer: Tokenizer
    grammars: Grammars
    digest: str  # equal where a stream is resumed exactly
    weights_digest: str  # equal where it may be continued; empty: only exactly
    computation: Computation
    computed_by: str  # for a person
    eos_ids: frozenset[int]
    sampling_defaults: SamplingDefaults
    files: LocalModel | None  # in use: kept in the cache as long as this lives


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingEncoder:
    """An encoder in memory with the engine that computes it."""

    spec: ModelSpec
    engine: EmbeddingEngine
    tokenizer: SentenceTokenizer
    digest: str
    weights_digest: str  # equal where vectors may be compared
    computation: Computation
    computed_by: str  # for a person
    may_be_cut: bool  # the first numbers of a vector are a vector themselves
    normalize: bool  # vectors have length 1
    files: LocalModel | None  # in use: kept in the cache as long as this lives


def start_serving(
    loaded: Loaded | LoadedEncoder, receive: Receive
) -> ServingModel | ServingEncoder:
    """With its engine running; `receive` gets what comes of it, in its thread."""
    if isinstance(loaded, LoadedEncoder):
        return _encoder(loaded, receive)
    return _model(loaded, receive)


def _model(loaded: Loaded, receive: Receive) -> ServingModel:
    engine = Engine(
        loaded.model.runner,
        limits=loaded.model.limits,
        max_batch_tokens=loaded.spec.max_batch_tokens,
        prefix_caching=loaded.spec.prefix_caching,
        deliver=receive,
    )
    engine.start()
    return ServingModel(
        spec=loaded.spec,
        engine=engine,
        tokenizer=loaded.tokenizer,
        grammars=Grammars(
            loaded.tokenizer,
            vocab_size=loaded.model.limits.vocab_size,
            eos_ids=loaded.eos_ids,
        ),
        digest=loaded.digest,
        weights_digest=loaded.weights_digest,
        computation=loaded.model.computation,
        computed_by=loaded.model.computed_by,
        eos_ids=loaded.eos_ids,
        sampling_defaults=loaded.sampling_defaults,
        files=loaded.files,
    )


def _encoder(loaded: LoadedEncoder, receive: Receive) -> ServingEncoder:
    engine = EmbeddingEngine(
        loaded.encoder,
        limits=loaded.limits,
        max_batch_tokens=loaded.spec.max_batch_tokens,
        fail=receive,
    )
    engine.start()
    return ServingEncoder(
        spec=loaded.spec,
        engine=engine,
        tokenizer=loaded.tokenizer,
        digest=loaded.digest,
        weights_digest=loaded.weights_digest,
        computation=loaded.computation,
        computed_by=loaded.computed_by,
        may_be_cut=loaded.may_be_cut,
        normalize=loaded.normalize,
        files=loaded.files,
    )


def describe(loaded: Loaded | LoadedEncoder) -> dict[str, str | int]:
    """What the log says of a model that is ready."""
    common = {"model": loaded.spec.model, "digest": loaded.digest[:12]}
    if isinstance(loaded, LoadedEncoder):
        return {**common, "computed_by": loaded.computed_by, "task": Task.EMBED}
    return {
        **common,
        "computed_by": loaded.model.computed_by,
        "kv_tokens": loaded.model.limits.kv_tokens,
        "sampling_defaults": str(loaded.sampling_defaults) or "none",
    }
