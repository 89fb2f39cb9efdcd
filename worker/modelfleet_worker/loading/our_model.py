"""A model of our own families as it shall be loaded, whatever computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from ..devices.host import usable_cores
from ..devices.native import library
from ..engine.device import Computation, Runner
from ..models.config import LlamaConfig
from ..models.design import LLAMA, Norms
from ..models.float_type import FloatType
from ..quantization.scheme import Quantization
from ..quantization.stored import StoredFormat
from .checkpoint import Checkpoint
from .expected_tensors import ExpectedTensors, needed_memory, quantized_share
from .sizing import LoadedWeights, describe_path, refuse_weights_beyond_memory
from .working_memory import Widths

_ON_TORCH = "on torch's operations"


@dataclass(frozen=True, slots=True, kw_only=True)
class OurModel:
    """A Llama-family model as it shall be loaded."""

    config: LlamaConfig
    dtype: FloatType
    context: int  # tokens
    quantization: Quantization  # to be done
    stored: StoredFormat | None  # done already

    def expected(self, checkpoint: Checkpoint) -> ExpectedTensors:
        """Raises ModelError, also if there is no memory for them."""
        refuse_weights_beyond_memory(self.weight_bytes(checkpoint))
        return ExpectedTensors(self.config, self.quantization, self.stored, checkpoint.names())

    def weight_bytes(self, checkpoint: Checkpoint) -> int:
        """What the weights take in memory, by config, quantization and what is stored."""
        stored_bytes = None if self.stored is None else checkpoint.total_bytes
        return needed_memory(self.config, self.dtype, self.quantization, stored_bytes)

    def loaded(
        self, runner: Callable[[int], Runner], weights: object, *, token_bytes: int, native: bool
    ) -> LoadedWeights:
        """`weights`: their digest."""
        config, dtype = self.config, self.dtype
        # Other arithmetic rounds in another way. Torch's operations and the arithmetic that there
        # was first have no name here, so that workers of older versions have the same digest.
        arithmetic = library.arithmetic() if native else ""
        other = "" if arithmetic in ("", "bf16-dot") else f" {arithmetic}"
        described = f"{weights} torch.{dtype} {config} {self.quantization}"
        if config.design != LLAMA:
            described += f" {config.design}"
        if config.experts is not None:
            described += f" {config.experts}"
        return LoadedWeights(
            runner=runner,
            token_bytes=token_bytes,
            widths=Widths(
                hidden=config.hidden_size,
                inner=config.taken_inner,
                query=config.heads * config.head_dim,
                key=config.kv_heads * config.head_dim,
                head_dim=config.head_dim,
                vocab=config.vocab_size,
                itemsize=dtype.itemsize,
                native=native,
                norms_after=config.design.norms is not Norms.BEFORE,
            ),
            digest=xxhash.xxh3_128_hexdigest(f"{described}{other}".encode()),
            weights_digest=xxhash.xxh3_128_hexdigest(described.encode()),
            computation=_computation(dtype, native=native),
            computed_by=describe_path(
                f"our modules {_compiled_step() if native else _ON_TORCH}",
                dtype,
                self.quantization,
                quantized_share(config, self.quantization),
            ),
        )


def _computation(dtype: FloatType, *, native: bool) -> Computation:
    chosen = library.instruction_set()
    if not native or chosen is None:
        return Computation(path="torch", dtype=dtype, threads=usable_cores())
    return Computation(
        path="compiled",
        dtype=dtype,
        threads=usable_cores(),
        instruction_set=chosen.name,
        arithmetic=chosen.arithmetic,
        draws=chosen.machine,  # they take logarithms from the system's libm
    )


def _compiled_step() -> str:
    chosen = library.instruction_set()
    name = "" if chosen is None else chosen.name
    return f"in the compiled step ({name}, {usable_cores()} threads)"
