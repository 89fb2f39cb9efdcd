"""What the files of a sentence encoder say, checked: its shape, its pooling, what texts it takes.

The checkpoint is a BERT encoder as transformers writes it; what sentence-transformers adds
(modules.json and the files that it names) says how token vectors become one. Imports no torch.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ModelError
from ..task import Task
from .config import read_json
from .config_fields import Fields

_MODULES: Final = "modules.json"
_ENCODERS: Final = frozenset({"BertModel", "BertForMaskedLM"})  # that are computed here
_EMBEDDING: Final = frozenset({"BertModel", "RobertaModel", "XLMRobertaModel", "MPNetModel"})
_MOST_LAYERS: Final = 1024
_POOLED: Final = "Pooling"
_KINDS: Final = frozenset({"Transformer", _POOLED, "Normalize"})


class Pooling(enum.IntEnum):
    """How the vectors of a text's tokens become one. As in encoder.cpp."""

    MEAN = 0
    CLS = 1
    MAX = 2
    MEAN_SQRT = 3  # the sum, divided by the root of how many there are


class Function(enum.IntEnum):
    """What is between the two projections of a network. As in activations.h."""

    GELU = 1
    GELU_TANH = 2
    RELU = 3


_POOLINGS: Final = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT,
}
_FUNCTIONS: Final = {
    "gelu": Function.GELU,
    "gelu_new": Function.GELU_TANH,
    "gelu_pytorch_tanh": Function.GELU_TANH,
    "relu": Function.RELU,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Two encoders of equal config and weights give equal vectors."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    positions: int  # tokens that the table has
    types: int
    norm_eps: float
    function: Function
    pooling: Pooling
    normalize: bool
    context: int  # tokens of a text that it was made for
    may_be_cut: bool  # the first numbers of a vector are a vector themselves (Matryoshka)
    prompt: str  # before each text
    lower_case: bool  # texts are lowered first

    @property
    def head_dim(self) -> int:
        """Of a query, a key or a value of one head."""
        return self.hidden_size // self.heads


def task_of(folder: Path) -> Task:
    """What a checkpoint is for: sentence-transformers' files say Embed, and so do encoders."""
    if (folder / _MODULES).is_file():
        return Task.EMBED
    names = read_json(folder / "config.json").get("architectures")
    is_encoder = isinstance(names, list) and any(name in _EMBEDDING for name in names)
    return Task.EMBED if is_encoder else Task.GENERATE


def read_encoder(folder: Path) -> EncoderConfig:
    """Raises ModelError for what is no encoder that is computed here."""
    raw = read_json(folder / "config.json")
    names = raw.get("architectures")
    if not isinstance(names, list) or not any(name in _ENCODERS for name in names):
        raise ModelError(
            f"config.json: architectures is {names!r}: the encoders that are served here are"
            f" {', '.join(sorted(_ENCODERS))}"
        )
    for name, served in {"position_embedding_type": "absolute", "is_decoder": False}.items():
        if raw.get(name, served) != served:
            raise ModelError(
                f"config.json: {name} is {raw[name]!r}; only {served!r} is served here"
            )
    activation = raw.get("hidden_act", "gelu")
    if activation not in _FUNCTIONS:
        raise ModelError(
            f"config.json: hidden_act is {activation!r}; {', '.join(_FUNCTIONS)} are served here"
        )
    fields = Fields(raw)
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if hidden % heads:
        raise ModelError(f"config.json: hidden_size is {hidden}, which {heads} heads do not divide")
    modules = _read_modules(folder)
    positions = fields.integer("max_position_embeddings")
    sentence = _optional(folder / modules.transformer / "sentence_bert_config.json")
    context = Fields(sentence).integer("max_seq_length", positions)
    return EncoderConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        layers=fields.integer("num_hidden_layers", most=_MOST_LAYERS),
        heads=heads,
        positions=positions,
        types=fields.integer("type_vocab_size", 2),
        norm_eps=fields.number("layer_norm_eps", 1e-12),
        function=_FUNCTIONS[activation],
        pooling=_read_pooling(folder, modules, hidden),
        normalize=modules.normalize,
        context=min(context, positions),
        may_be_cut=raw.get("is_matryoshka") is True or bool(raw.get("matryoshka_dimensions")),
        prompt=_default_prompt(folder),
        lower_case=Fields(sentence).flag("do_lower_case", default=False),
    )


@dataclass(frozen=True, slots=True)
class _Modules:
    """The folders of what sentence-transformers runs one after another."""

    transformer: str = ""
    pooling: str | None = None
    normalize: bool = False


def _read_modules(folder: Path) -> _Modules:
    path = folder / _MODULES
    if not path.is_file():
        return _Modules()
    found = _json(path)
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise ModelError(f"{path} is expected to be a list of modules")
    folders: dict[str, str] = {}
    for module in found:
        kind = str(module.get("type", "")).rpartition(".")[2]
        where = module.get("path", "")
        if kind not in _KINDS or kind in folders:
            raise ModelError(
                f"{path}: {kind[:80]!r} is no module that is served here: expected a Transformer,"
                " a Pooling, and perhaps Normalize"
            )
        if not isinstance(where, str) or Path(where).is_absolute() or ".." in Path(where).parts:
            raise ModelError(f"{path}: {where!r} is not a folder beside it")
        folders[kind] = where
    if list(folders) != sorted(folders, key=["Transformer", _POOLED, "Normalize"].index):
        raise ModelError(f"{path}: expected a Transformer, a Pooling, and perhaps Normalize")
    if "Transformer" not in folders or folders["Transformer"]:
        raise ModelError(f"{path}: the Transformer is expected in the folder itself")
    return _Modules(pooling=folders.get(_POOLED), normalize="Normalize" in folders)


def _read_pooling(folder: Path, modules: _Modules, hidden: int) -> Pooling:
    """Mean where the checkpoint says nothing, as sentence-transformers takes it."""
    if modules.pooling is None:
        return Pooling.MEAN
    path = folder / modules.pooling / "config.json"
    raw = read_json(path)
    chosen = [pooling for name, pooling in _POOLINGS.items() if raw.get(name) is True]
    # Newer versions name it.
    named = {"cls": Pooling.CLS, "mean": Pooling.MEAN, "max": Pooling.MAX}
    named |= {"mean_sqrt_len_tokens": Pooling.MEAN_SQRT}
    if (mode := raw.get("pooling_mode")) in named:
        chosen = [named[mode]]
    others = [k for k, v in raw.items() if k.startswith("pooling_mode_") and v is True]
    if len(chosen) != 1 or any(name not in _POOLINGS for name in others):
        raise ModelError(f"{path}: expected one of {', '.join(_POOLINGS)} alone to be true")
    if raw.get("word_embedding_dimension", hidden) != hidden:
        raise ModelError(f"{path}: word_embedding_dimension is not the model's {hidden}")
    return chosen[0]


def _default_prompt(folder: Path) -> str:
    """What sentence-transformers puts before a text that nothing else is said of."""
    raw = _optional(folder / "config_sentence_transformers.json")
    name, prompts = raw.get("default_prompt_name"), raw.get("prompts")
    found = prompts.get(name, "") if isinstance(prompts, dict) and name is not None else ""
    if not isinstance(found, str):
        raise ModelError(f"config_sentence_transformers.json: the prompt {name!r} is no text")
    return found


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes()[: 1 << 20])
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
