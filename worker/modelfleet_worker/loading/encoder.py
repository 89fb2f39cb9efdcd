"""From a folder to an encoder that embeds. Imports no torch where the compiled one computes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
import xxhash

from ..devices.host import usable_cores
from ..devices.native import library
from ..devices.native.encoder import (
    Arithmetic,
    NativeEncoder,
    fastest_arithmetic,
    takes_encoder,
)
from ..engine.device import Computation
from ..engine.embedding import Encoder, EncoderLimits
from ..errors import ModelError
from ..models.encoder import EncoderConfig, read_encoder
from ..models.encoder_weights import EncoderWeights, build_weights, expected_shapes, own_name
from ..models.float_type import FloatType
from ..progress import Report
from ..quantization.scheme import AS_STORED
from ..spec import ModelSpec
from ..storage.entry import LocalModel
from ..text.sentences import SentenceTokenizer
from .checkpoint import Checkpoint, WeightsDigest
from .sizing import context_within, read_dtype, refuse_weights_beyond_memory

log = structlog.get_logger()

_MAX_SEQUENCES = 64  # calls at once, where the spec says nothing
_WARM_UP = 16  # tokens
_HOW = {
    Arithmetic.FLOATS: "float32",
    Arithmetic.SPLIT: "float32 in three products of bfloat16 by AMX",
    Arithmetic.HALF: "bfloat16 by AMX",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEncoder:
    """An encoder with its text side, ready for an EmbeddingEngine."""

    spec: ModelSpec
    encoder: Encoder
    tokenizer: SentenceTokenizer
    limits: EncoderLimits
    may_be_cut: bool  # the first numbers of a vector are a vector themselves
    normalize: bool  # vectors have length 1
    digest: str  # hex; of all that decides the vectors
    weights_digest: str  # the same, but for the arithmetic: such vectors may be compared
    computation: Computation
    computed_by: str  # for a person
    files: LocalModel | None = None  # in use: kept in the cache as long as this lives


def load_encoder(spec: ModelSpec, files: LocalModel, report: Report) -> LoadedEncoder:
    """Raises ModelError."""
    folder = files.folder
    if spec.quantization != AS_STORED:
        raise ModelError("weights of encoders are not quantized here: remove spec.quantization")
    config = read_encoder(folder)
    dtype = read_dtype(spec.dtype, folder)
    context = config.context
    if spec.context_length is not None:
        context = context_within(config.positions, spec.context_length)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as pool:
        tokenizer = pool.submit(
            SentenceTokenizer, folder, prompt=config.prompt, lower_case=config.lower_case
        )
        weights, digest = read_weights(config, Checkpoint(folder), report)
        encoder, computation, computed_by = _on_device(config, weights, dtype)
        del weights
        text = tokenizer.result()
    if text.special_tokens >= context:
        raise ModelError(
            f"contextLength is {context}, of which special tokens take {text.special_tokens}"
        )
    report("Warmup", 0.0)
    encoder.encode([[0] * min(_WARM_UP, context)])
    report("Warmup", 1.0)
    described = f"{digest} {config} {dtype} {text.digest}"
    return LoadedEncoder(
        spec=spec,
        encoder=encoder,
        tokenizer=text,
        limits=EncoderLimits(
            context_length=context,
            vocab_size=config.vocab_size,
            max_sequences=spec.max_sequences or _MAX_SEQUENCES,
            dimensions=config.hidden_size,
        ),
        may_be_cut=config.may_be_cut,
        normalize=config.normalize,
        digest=_hashed(f"{described} {computation.path} {computation.arithmetic}"),
        weights_digest=_hashed(described),
        computation=computation,
        computed_by=computed_by,
        files=files,
    )


def _hashed(described: str) -> str:
    return str(xxhash.xxh3_128_hexdigest(described.encode()))


def _on_device(
    config: EncoderConfig, weights: EncoderWeights, dtype: FloatType
) -> tuple[Encoder, Computation, str]:
    threads, step = usable_cores(), library.compiled_step()
    if step is not None and takes_encoder(config):
        arithmetic = fastest_arithmetic(dtype, step)
        native = NativeEncoder(config, weights, step=step, arithmetic=arithmetic, threads=threads)
        name = step.instruction_set.name
        computation = Computation(
            path="compiled",
            dtype=FloatType.BFLOAT16 if arithmetic is Arithmetic.HALF else FloatType.FLOAT32,
            threads=threads,
            instruction_set=name,
            arithmetic=f"encoder-{arithmetic.name.lower()}",
        )
        return native, computation, f"an encoder in the compiled step ({name}, {_HOW[arithmetic]})"
    # Imported here: torch takes seconds.
    from ..devices.torch.encoder import TorchEncoder

    encoder = TorchEncoder(config, weights, threads=threads)
    computation = Computation(path="torch", dtype=FloatType.FLOAT32, threads=threads)
    return encoder, computation, f"an encoder on torch's operations, {FloatType.FLOAT32}"


def read_weights(
    config: EncoderConfig, checkpoint: Checkpoint, report: Report
) -> tuple[EncoderWeights, WeightsDigest]:
    """In float32, whatever they are stored in. Raises ModelError."""
    expected, tensors = expected_shapes(config), dict[str, np.ndarray[Any, Any]]()
    refuse_weights_beyond_memory(2 * 4 * checkpoint.elements())
    digest, read = WeightsDigest(), 0
    report("Weights", 0.0)
    for full_name, tensor in checkpoint.tensors():
        name = own_name(full_name)
        read += tensor.nbytes
        if name not in expected:
            continue  # a pooler, or a head
        if tensor.shape != expected[name] or tensor.dtype not in set(FloatType):
            raise ModelError(
                f"the tensor {name} is {list(tensor.shape)} of {tensor.dtype}:"
                f" {list(expected[name])} of floats are expected"
            )
        digest.add(name, tensor)
        tensors[name] = tensor.float32()
        report("Weights", read / max(1, checkpoint.total_bytes))
    if lacking := sorted(expected.keys() - tensors.keys()):
        raise ModelError(f"the checkpoint lacks {lacking[0]} and {len(lacking) - 1} other tensors")
    return build_weights(config, tensors), digest
