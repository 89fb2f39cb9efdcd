"""How far each bfloat16 path is from float32: KL and greedy agreement on 200 fixed prompts.

transformers answers each prompt greedily in float32, 32 tokens. Every path then reads prompt and
answer, token by token as in an engine, sixteen at once, and says at each place of the answer how
likely it thinks each token is. Beside them transformers' own bfloat16, which reads both at once.

    python benchmarks/bf16_quality.py FOLDER_OF_SMOLLM2

Ends with 1 if the mean KL of a path is above that of transformers' bfloat16. What older processors
do: ONEDNN_MAX_CPU_ISA=AVX512_CORE (no bfloat16) or AVX2 with ATEN_CPU_CAPABILITY=avx2.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from modelfleet_worker.devices.host import usable_cores
from modelfleet_worker.engine.request import Request
from modelfleet_worker.engine.request import Sequence as EngineSequence
from modelfleet_worker.engine.scheduler import BLOCK_SIZE, Chunk
from modelfleet_worker.loading import generic, loader
from modelfleet_worker.models.float_type import FloatType
from modelfleet_worker.quantization.scheme import AS_STORED

TOKENS = 32  # of each answer
AT_ONCE = 16
QUESTIONS = (
    "What is the capital of {}?",
    "Which language do most people in {} speak?",
    "Name three cities of {}.",
    "Write one sentence about the food of {}.",
    "How would you travel from London to {}?",
    "Write a short poem about {}.",
    "What is the weather in {} like in July?",
    "Explain to a child where {} is.",
    "The capital of {} is",  # these two are continued, the others are chats
    "A short history of {}:",
)
COUNTRIES = (
    *("France", "Japan", "Brazil", "Kenya", "Canada", "India", "Norway", "Egypt", "Chile", "Italy"),
    *("Poland", "Peru", "China", "Spain", "Cuba", "Iran", "Ghana", "Nepal", "Mexico", "Ireland"),
)


class Runner(Protocol):
    """What all runners with a model have."""

    num_blocks: int

    def logits(self, chunks: Sequence[Chunk]) -> Any:
        """Float32 [R, vocab] of the chunks that sample, of torch or numpy."""
        ...


def prompts(folder: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids: list[list[int]] = []
    for question, country in product(QUESTIONS, COUNTRIES):
        text = question.format(country)
        if text.endswith((".", "?")):
            chat = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids


def theirs(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.inference_mode()
def answers(model: Any, asked: Sequence[list[int]]) -> list[list[int]]:
    """Greedy, with ends of sequence as any other token."""
    longest = max(map(len, asked))
    generated = model.generate(
        torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in asked]),
        attention_mask=torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in asked]
        ),
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    said: list[list[int]] = generated[:, longest:].tolist()
    return said


@torch.inference_mode()
def read_at_once(model: Any, prompt: list[int], said: list[int]) -> Tensor:
    """Log probabilities [TOKENS, vocab] at each place of the answer."""
    logits = model(torch.tensor([[*prompt, *said]])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1)


def read_in_steps(runner: Runner, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[Tensor]:
    """The same for each pair of a prompt and its answer, all of them in one batch."""
    sequences = []
    for i, (prompt, _) in enumerate(pairs):
        request = Request(request_id=str(i), prompt_ids=tuple(prompt), max_tokens=TOKENS + 1)
        sequence = EngineSequence(request)
        blocks = -(-(len(prompt) + TOKENS) // BLOCK_SIZE)
        first = sum(len(s.block_table) for s in sequences)
        sequence.block_table = list(range(first, first + blocks))
        sequences.append(sequence)
    rows: list[list[Tensor]] = [[] for _ in pairs]
    for place in range(TOKENS):
        chunks = [Chunk.of(sequence, sequence.num_uncomputed) for sequence in sequences]
        for row, logits in zip(rows, torch.as_tensor(runner.logits(chunks)), strict=True):
            row.append(logits.clone())
        for sequence, (_, said) in zip(sequences, pairs, strict=True):
            sequence.num_computed = len(sequence.token_ids)
            sequence.append(said[place])
    for row in rows:
        yield torch.stack(row).log_softmax(-1)


def ours(folder: Path, *, compiled: bool) -> Runner:
    os.environ["MODELFLEET_COMPILED_STEP"] = "on" if compiled else "off"
    loaded = loader.load_model(
        folder,
        dtype="BFloat16",
        kv_cache_bytes=256 << 20,
        max_sequences=AT_ONCE,
        max_batch_tokens=2048,
        progress=lambda *_: None,
    )
    print(f"# {loaded.computed_by}", file=sys.stderr)
    runner: Any = loaded.runner
    return runner


def on_their_modules(folder: Path) -> Runner:
    os.environ["MODELFLEET_COMPILED_STEP"] = "off"
    config = generic.read_config(folder)
    weights = generic.load(
        folder, config, FloatType.BFLOAT16, 1024, AS_STORED, progress=lambda *_: None
    )
    print(f"# {weights.computed_by}", file=sys.stderr)
    runner: Any = weights.runner(1024)
    return runner


def compare(truth: list[Tensor], found: Iterable[Tensor]) -> tuple[float, float, int]:
    """Mean KL in nats, the share of equal choices, and how many answers are equal throughout."""
    divergence, same = [], []
    for true, own in zip(truth, found, strict=True):
        divergence.append((true.exp() * (true - own)).sum(-1).mean())
        same.append(true.argmax(-1) == own.argmax(-1))
    alike = torch.stack(same)
    return (
        float(torch.stack(divergence).mean()),
        float(alike.float().mean()),
        int(alike.all(dim=1).sum()),
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--prompts", type=int, default=200)
    options = arguments.parse_args()
    torch.set_num_threads(usable_cores())
    disable_progress_bar()
    asked = prompts(options.folder)
    asked = asked[:: len(asked) // options.prompts][: options.prompts]
    exact = theirs(options.folder, torch.float32)
    said = [
        a for i in range(0, len(asked), AT_ONCE) for a in answers(exact, asked[i : i + AT_ONCE])
    ]
    pairs = list(zip(asked, said, strict=True))
    truth = [read_at_once(exact, *pair) for pair in pairs]
    del exact
    paths: dict[str, Callable[[], Runner]] = {
        "compiled step": lambda: ours(options.folder, compiled=True),
        "torch's operations": lambda: ours(options.folder, compiled=False),
        "transformers' modules, our attention": lambda: on_their_modules(options.folder),
    }
    peer = theirs(options.folder, torch.bfloat16)
    rounded = compare(truth, (read_at_once(peer, *pair) for pair in pairs))
    del peer
    print(
        f"{datetime.date.today()}, torch {version('torch')}, transformers"
        f" {version('transformers')}, {len(pairs)} prompts of"
        f" {min(map(len, asked))} to {max(map(len, asked))} tokens\n\n"
        "| bfloat16 on | mean KL, nats | same choice | answers that are the same |\n"
        "|---|---|---|---|\n" + line("transformers itself", rounded)
    )
    worst = 0.0
    for name, load in paths.items():
        runner = load()
        groups = (pairs[i : i + AT_ONCE] for i in range(0, len(pairs), AT_ONCE))
        figures = compare(truth, (row for some in groups for row in read_in_steps(runner, some)))
        worst = max(worst, figures[0])
        print(line(name, figures))
        del runner
    sys.exit(worst > rounded[0])


def line(name: str, figures: tuple[float, float, int]) -> str:
    divergence, same, answers = figures
    return f"| {name} | {divergence:.6f} | {same:.4f} | {answers} |"


if __name__ == "__main__":
    main()
