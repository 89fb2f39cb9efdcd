"""Which tensors of a checkpoint make a Llama-family model, and what becomes of each."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ModelError
from ..models.config import LlamaConfig
from ..models.float_type import FloatType
from ..models.llama_tensors import (
    EMBEDDING,
    HEAD_WEIGHT,
    Projection,
    canonical_name,
    plain_shapes,
    projections,
)
from ..models.stored_tensor import StoredTensor
from ..quantization.scheme import HEAD, Quantization, Scheme
from ..quantization.stored import StoredFormat

# Left out by newer checkpoints, written by older ones; computed here from the config.
_DERIVED = "rotary_emb.inv_freq"


@dataclass(slots=True, kw_only=True)
class Part:
    """A projection as the checkpoint has it: alone, or one of those that we merge."""

    name: str  # model.layers.0.self_attn.q_proj
    inputs: int
    outputs: int
    scheme: Scheme | None  # to round it to
    stored: StoredFormat | None  # quantized in the checkpoint
    missing: set[str]  # suffixes: weight, bias, or those of the stored format
    found: dict[str, StoredTensor] = field(default_factory=dict)


@dataclass(slots=True)
class Gathered:
    """A projection of ours, and its parts as far as they were read."""

    projection: Projection
    parts: list[Part]

    @property
    def complete(self) -> bool:
        """Whether it can be built."""
        return not any(part.missing for part in self.parts)


@dataclass(frozen=True, slots=True)
class Plain:
    """A tensor that is no part of a projection."""

    name: str  # canonical: model.norm.weight
    tensor: StoredTensor


class ExpectedTensors:
    """Takes a checkpoint's tensors in any order."""

    def __init__(
        self,
        config: LlamaConfig,
        quantization: Quantization,
        stored: StoredFormat | None,
        names: frozenset[str],
    ) -> None:
        """`names`: of the checkpoint's tensors. Raises ModelError."""
        self._config, self._stored = config, stored
        self._plain = plain_shapes(config)
        self._suffixes: dict[str, tuple[Gathered, Part, str]] = {}
        names = frozenset(map(canonical_name, names))
        self.gathered = [
            self._gathered(projection, quantization, names) for projection in projections(config)
        ]
        for gathered in self.gathered:
            if gathered.projection.module == HEAD and config.tied_embeddings:
                self._tie(gathered.parts[0])
                continue
            for part in gathered.parts:
                for suffix in part.missing:
                    self._suffixes[f"{part.name}.{suffix}"] = gathered, part, suffix
        # One for both, as transformers.
        self._embedding = EMBEDDING
        if config.tied_embeddings and EMBEDDING not in names and HEAD_WEIGHT in names:
            self._embedding = HEAD_WEIGHT
            self._plain[HEAD_WEIGHT] = self._plain.pop(EMBEDDING)
        quantizable = [g for g in self.gathered if not g.projection.is_router]
        modules = [part.name for gathered in quantizable for part in gathered.parts]
        stacks = {g.projection.stack for g in quantizable if g.projection.stack is not None}
        if unused := quantization.unused_overrides([*modules, *stacks]):
            raise ModelError(
                f"the override {unused[0]} matches no module; there are {modules[0]} and so"
                f" on to {modules[-1]}"
            )

    def _gathered(
        self, projection: Projection, quantization: Quantization, names: frozenset[str]
    ) -> Gathered:
        parts = []
        for name, outputs in projection.parts.items():
            missing, stored = {"weight"}, None
            scheme = projection.scheme_of(name, quantization)
            if self._stored is not None and self._stored.holds(name, names):
                stored, missing = self._stored, self._stored.suffixes(name, names)
                if scheme is not None:
                    raise ModelError(
                        f"{name} is quantized already ({stored}): ask for no quantization of"
                        " it, or use the unquantized model"
                    )
            if projection.bias:
                missing.add("bias")
            parts.append(
                Part(
                    name=name,
                    inputs=projection.inputs,
                    outputs=outputs,
                    scheme=scheme,
                    stored=stored,
                    missing=missing,
                )
            )
        return Gathered(projection, parts)

    def _tie(self, head: Part) -> None:
        """It is complete with the embedding."""
        head.stored, head.missing = None, set()

    @property
    def tied_head(self) -> Gathered | None:
        """A head that is the embedding: it has no tensor of its own."""
        return self.gathered[-1] if self._config.tied_embeddings else None

    def take(self, name: str, tensor: StoredTensor) -> Plain | Gathered | None:
        """What the tensor is, or is a part of. Raises ModelError if it has no place, or another.

        None: it is of no use.
        """
        canonical = canonical_name(name)
        if canonical in self._plain:
            _check(name, tensor, self._plain.pop(canonical))
            return Plain(EMBEDDING if canonical == self._embedding else canonical, tensor)
        if canonical not in self._suffixes:
            if self._may_be_ignored(name, tensor):
                return None
            raise ModelError(f"the tensor {name} does not belong to the architecture")
        gathered, part, suffix = self._suffixes.pop(canonical)
        if suffix == "bias":
            _check(name, tensor, (part.outputs,))
        elif part.stored is None:
            _check(name, tensor, (part.outputs, part.inputs))
        part.found[suffix] = tensor
        part.missing.remove(suffix)
        return gathered

    def check_complete(self) -> None:
        """Raises ModelError if tensors are missing."""
        if missing := sorted([*self._plain, *self._suffixes]):
            raise ModelError(
                f"the checkpoint lacks {len(missing)} tensors, the first is {missing[0]}"
            )

    def _may_be_ignored(self, name: str, tensor: StoredTensor) -> bool:
        tied = self._config.tied_embeddings
        if name.endswith(_DERIVED) or (tied and name.endswith(HEAD_WEIGHT)):
            return True
        # Packers of GPTQ write a bias for every projection, of zeros where the model has none.
        return self._stored is not None and name.endswith(".bias") and not tensor.float32().any()


def _check(name: str, tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    """Of weights. Raises ModelError."""
    if tensor.shape != shape:
        raise ModelError(
            f"the tensor {name} is {list(tensor.shape)}, but config.json asks for {list(shape)}"
        )
    if tensor.dtype not in set(FloatType):
        raise ModelError(
            f"the tensor {name} is {tensor.dtype}; float32, bfloat16 or float16 is expected"
        )


def needed_memory(
    config: LlamaConfig, dtype: FloatType, quantization: Quantization, stored_bytes: int | None
) -> int:
    """Bytes of the model as it will stand, by the numbers of config.json.

    `stored_bytes`: the size of a checkpoint that is quantized already.
    """
    embedding = config.vocab_size * config.hidden_size * dtype.itemsize
    if stored_bytes is not None:  # packed, it is about as large as its files; a tied head is a copy
        return stored_bytes + config.tied_embeddings * embedding
    needed = float(embedding)
    for projection in projections(config):
        for name, outputs in projection.parts.items():
            scheme = projection.scheme_of(name, quantization)
            size = scheme.bytes_per_weight if scheme else dtype.itemsize
            needed += outputs * projection.inputs * size
    return int(needed)


def quantized_share(config: LlamaConfig, quantization: Quantization) -> float:
    """Of the weights of all projections but the head."""
    covered = total = 0
    for projection in projections(config):
        for name, outputs in projection.parts.items() if projection.module != HEAD else ():
            total += outputs * projection.inputs
            if projection.scheme_of(name, quantization) is not None:
                covered += outputs * projection.inputs
    return covered / total
