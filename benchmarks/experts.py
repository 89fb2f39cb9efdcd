"""Experts in the compiled step beside transformers' modules in the same engine, in alternation.

`python benchmarks/experts.py` makes two Mixtrals of random weights, a tiny one and one of SmolLM2's
shape, loads each both ways in this process, and prints tokens a second, prompts included.
"""

from __future__ import annotations

import argparse
import queue
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import MixtralConfig, MixtralForCausalLM

import machine
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.engine.device import Runner
from modelfleet_worker.engine.engine import Engine
from modelfleet_worker.engine.messages import Add, EngineFailure, StepOutput
from modelfleet_worker.engine.request import EngineLimits, Request
from modelfleet_worker.engine.scheduler import BLOCK_SIZE
from modelfleet_worker.loading import generic
from modelfleet_worker.loading.loader import load_model
from modelfleet_worker.models.float_type import FloatType
from modelfleet_worker.quantization.scheme import Quantization, Weights

TINY: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SMOLLM2: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
SHAPES = {"tiny": TINY, "SmolLM2's shape": SMOLLM2}
VOCAB, BLOCKS = 49152, 512


def save(shape: dict[str, Any], folder: Path) -> None:
    """Eight experts, of which a token takes two."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = MixtralConfig(
        vocab_size=VOCAB,
        max_position_embeddings=2048,
        num_local_experts=8,
        num_experts_per_tok=2,
        tie_word_embeddings=True,
        dtype="bfloat16",
        **shape,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)


def compiled(folder: Path, quantization: Quantization) -> Runner:
    loaded = load_model(
        folder,
        dtype="BFloat16",
        quantization=quantization,
        max_sequences=32,
        max_batch_tokens=512,
        progress=lambda *_: None,
    )
    if not isinstance(loaded.runner, NativeRunner):
        raise SystemExit(f"expected the compiled step, found {loaded.computed_by}")
    return loaded.runner


def of_transformers(folder: Path, quantization: Quantization) -> Runner:
    config = generic.read_config(folder)
    weights = generic.load(folder, config, FloatType.BFLOAT16, 2048, quantization, lambda *_: None)
    return weights.runner(BLOCKS)


def tokens_a_second(runner: Runner, streams: int, prompt: int, new: int) -> float:
    delivered: queue.Queue[StepOutput | EngineFailure] = queue.Queue()
    engine = Engine(
        runner,
        limits=EngineLimits(
            context_length=2048,
            kv_tokens=runner.num_blocks * BLOCK_SIZE,
            max_sequences=streams,
            vocab_size=VOCAB,
        ),
        max_batch_tokens=512,
        prefix_caching=False,
        deliver=delivered.put,
    )
    generator = torch.Generator().manual_seed(1)
    for i in range(streams):
        ids = torch.randint(VOCAB, (prompt,), generator=generator).tolist()
        engine.submit(Add(Request(request_id=str(i), prompt_ids=tuple(ids), max_tokens=new)))
    begun = time.perf_counter()
    engine.start()
    try:
        while True:
            step = delivered.get(timeout=600)
            if not isinstance(step, StepOutput):
                raise SystemExit(f"the engine failed: {step}")
            if step.stats.finished == streams:
                return streams * new / (time.perf_counter() - begun)
    finally:
        engine.stop()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments.add_argument("--weights", nargs="+", choices=list(Weights), default=["none"])
    arguments.add_argument("--streams", nargs="+", type=int, default=[8])
    arguments.add_argument("--prompt", type=int, default=32, help="tokens")
    arguments.add_argument("--new", type=int, default=32, help="tokens")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    print(f"{machine.description()}; medians of {options.rounds} rounds, tokens a second\n")
    print("| model, weights | streams | compiled step | transformers' modules | ratio |")
    print("|---|---|---|---|---|")
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as name:
            save(SHAPES[shape], Path(name))
            for weights in options.weights:
                quantization = Quantization(weights=Weights(weights))
                runners = [make(Path(name), quantization) for make in (compiled, of_transformers)]
                for streams in options.streams:
                    found: list[list[float]] = [[], []]
                    for _ in range(options.rounds + 1):
                        for rates, runner in zip(found, runners, strict=True):
                            rate = tokens_a_second(runner, streams, options.prompt, options.new)
                            rates.append(rate)
                    ours, theirs = (median(rates[1:]) for rates in found)  # the first warms up
                    print(
                        f"| {shape}, {'bf16' if weights == 'none' else weights} | {streams} |"
                        f" {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
