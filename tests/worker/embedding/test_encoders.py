"""Vectors are those of transformers, by each way to compute them that this processor has."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelfleet_worker.devices.native.encoder import Arithmetic, NativeEncoder
from modelfleet_worker.devices.native.library import compiled_step
from modelfleet_worker.devices.torch.encoder import TorchEncoder
from modelfleet_worker.engine.embedding import Encoder
from modelfleet_worker.loading.checkpoint import Checkpoint
from modelfleet_worker.loading.encoder import load_encoder, read_weights
from modelfleet_worker.models.encoder import read_encoder
from modelfleet_worker.spec import Dtype, ModelSpec
from prepare_minilm import prepare
from tiny_encoder import WORDS, reference, write_encoder

pytestmark = pytest.mark.untimed

WAYS = ["torch", *Arithmetic]
# The largest difference of a number of a vector of length 1.
CLOSE = {"torch": 1e-5, Arithmetic.FLOATS: 1e-5, Arithmetic.SPLIT: 1e-5, Arithmetic.HALF: 2e-2}


def encoder_of(folder: Path, way: str | Arithmetic) -> Encoder:
    config = read_encoder(folder)
    weights, _ = read_weights(config, Checkpoint(folder), lambda phase, share: None)
    if isinstance(way, str):
        return TorchEncoder(config, weights, threads=2)
    step = compiled_step()
    if step is None:
        pytest.skip("there is no compiled step here")
    if way is not Arithmetic.FLOATS and not step.library.modelfleet_has_tiles():
        pytest.skip("this processor has no tiles")
    return NativeEncoder(config, weights, step=step, arithmetic=way, threads=2)


def some_ids(*lengths: int) -> list[list[int]]:
    rng = random.Random(7)
    return [[rng.randrange(2, len(WORDS)) for _ in range(length)] for length in lengths]


def vectors(encoder: Encoder, sequences: list[list[int]]) -> np.ndarray[Any, Any]:
    return np.stack([np.frombuffer(v, "<f4") for v in encoder.encode(sequences)])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("pooling", "normalize", "config"),
    [
        pytest.param("mean_tokens", True, {}, id="mean"),
        pytest.param("cls_token", True, {"hidden_act": "gelu_new"}, id="CLS"),
        pytest.param("max_tokens", False, {"hidden_act": "relu"}, id="max, as it is"),
        pytest.param("mean_sqrt_len_tokens", False, {"num_attention_heads": 1}, id="root"),
    ],
)
def test_makes_the_vectors_of_transformers(
    way: str | Arithmetic, pooling: str, normalize: bool, config: dict[str, Any], tmp_path: Path
):
    folder = write_encoder(tmp_path, pooling=pooling, normalize=normalize, **config)
    sequences = some_ids(1, 2, 11, 12, 13, 16, 17, 31, 32, 33, 48)
    expected = reference(folder, sequences, pooling=pooling, normalize=normalize)
    found = vectors(encoder_of(folder, way), sequences)
    longest = np.linalg.norm(expected, axis=1).max()
    assert np.abs(found - expected).max() <= CLOSE[way] * longest


@pytest.mark.parametrize("way", list(Arithmetic))
def test_a_vector_is_the_same_in_any_batch(way: Arithmetic, tmp_path: Path):
    encoder = encoder_of(write_encoder(tmp_path), way)
    # Few rows are shared among threads by outputs, and many by rows.
    sequences = some_ids(*range(1, 40))
    together = vectors(encoder, sequences)
    alone = np.concatenate([vectors(encoder, [ids]) for ids in sequences])
    assert (together == alone).all()


@pytest.mark.parametrize(("dtype", "closest"), [(Dtype.AUTO, 1 - 1e-6), (Dtype.BFLOAT16, 1 - 2e-4)])
def test_the_real_encoder_is_as_exact_as_it_says(dtype: Dtype, closest: float):
    folder = prepare()
    spec = ModelSpec(model="a/b", source="file:///unused", dtype=dtype)
    files: Any = SimpleNamespace(folder=folder)
    loaded = load_encoder(spec, files, lambda phase, share: None)
    texts = ["A short one.", "x", "Ein Satz, der länger ist. " * 9, "words and 123 numbers " * 30]
    ids = [loaded.tokenizer.cut(i, 256) for i in loaded.tokenizer.encode(texts)]
    expected = reference(folder, ids)
    found = vectors(loaded.encoder, ids)
    assert (expected * found).sum(1).min() >= closest
    if dtype is Dtype.AUTO:
        assert np.abs(found - expected).max() <= 1e-5
