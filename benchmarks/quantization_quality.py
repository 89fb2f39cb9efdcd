"""What each way to quantize SmolLM2 costs: perplexity and KL on real text, with 95 % intervals.

Against the same model in float32; each way as a worker serves it, by the compiled step.

The text: ABC news (the Lee background corpus) and articles of Wikipedia, both inside the wheel of
gensim 4.4.0; calibration is on the Python reference, which has nothing in common with them:

    pip download --no-deps gensim==4.4.0 -d /tmp/corpus
    python benchmarks/quantization_quality.py /tmp/corpus/gensim-*.whl FOLDER_OF_SMOLLM2

Minutes a method. Results of windows are kept in --work as they come; started again, it goes on.
"""

from __future__ import annotations

import argparse
import bz2
import datetime
import html
import json
import random
import re
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from modelfleet_worker.devices.host import usable_cores
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.engine.request import Request, Sequence
from modelfleet_worker.engine.scheduler import BLOCK_SIZE, Chunk
from modelfleet_worker.loading.loader import load_model
from modelfleet_worker.quantization.scheme import (
    AS_STORED,
    KVFormat,
    Method,
    Quantization,
    Weights,
)
from modelfleet_worker.quantize.calibration import windows
from modelfleet_worker.quantize.checkpoints import QuantizeOptions, quantize_checkpoint
from modelfleet_worker.quantize.evaluation import compare, logprobs, summarize
from modelfleet_worker.quantize.plain import load_plain

NEWS = "gensim/test/test_data/lee_background.cor"
WIKIPEDIA = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
WIKIPEDIA_CHARACTERS = 160_000
TOKENS = 100_000
ORIGINAL = "original"

Logprobs = Callable[[Tensor], Tensor]  # of the tokens after each of ids [T] but the last

AT_LOAD = {
    "none (bfloat16)": AS_STORED,
    "--kv-cache int8": Quantization(kv_cache=KVFormat.INT8),
    "--weights int8": Quantization(weights=Weights.INT8),
    "--weights int8 --kv-cache int8": Quantization(weights=Weights.INT8, kv_cache=KVFormat.INT8),
    "--weights int4 (g128)": Quantization(weights=Weights.INT4),
    "--weights int4 --group-size 32": Quantization(weights=Weights.INT4, group_size=32),
}
WRITTEN = {f"quantize --method {method}": method for method in Method if method != Method.INT8}


def corpus(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as packed:
        news = packed.read(NEWS).decode()
        dump = bz2.decompress(packed.read(WIKIPEDIA)).decode()
    articles = (prose(a) for a in re.findall(r"<text[^>]*>(.*?)</text>", dump, re.DOTALL))
    long_ones = "\n\n".join(a for a in articles if len(a) > 5000)
    return f"{news}\n\n{long_ones[:WIKIPEDIA_CHARACTERS]}"


def prose(markup: str) -> str:
    """The sentences of an article: without templates, tables, references, links and headings."""
    text = html.unescape(markup)
    text = re.sub(r"<!--.*?-->|<ref[^>/]*/>|<ref.*?</ref>", "", text, flags=re.DOTALL)
    for _ in range(4):  # they nest
        text = re.sub(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}|\[\[(File|Image):[^\[\]]*\]\]", "", text)
        text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?://\S+ ?([^\]]*)\]|<[^>]+>|'{2,}", r"\1", text)
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if len(line) > 80 and line[0].isalnum())


def served(folder: Path, quantization: Quantization = AS_STORED) -> Logprobs:
    """What gives `logprobs` of a window, as a worker computes it."""
    runner = load_model(
        folder,
        dtype="BFloat16",
        quantization=quantization,
        kv_cache_bytes=64 << 20,
        max_sequences=1,
        max_batch_tokens=512,
        progress=lambda *_: None,
    ).runner
    if not isinstance(runner, NativeRunner):
        sys.exit("expected a compiler and a processor with AVX-512 BF16")

    def of(ids: Tensor) -> Tensor:
        window = Sequence(
            Request(request_id="window", prompt_ids=tuple(ids.tolist()), max_tokens=1)
        )
        window.block_table = list(range(-(-len(ids) // BLOCK_SIZE)))
        chunks = [Chunk.of(window, len(ids))]
        return torch.from_numpy(runner.logits(chunks, everywhere=True))[:-1].log_softmax(-1)

    return of


def models(folder: Path, work: Path, samples: int) -> dict[str, Callable[[], Logprobs]]:
    """By name, how to get each; checkpoints that are not there yet are written."""
    found = {name: partial(served, folder, q) for name, q in AT_LOAD.items()}
    for name, method in WRITTEN.items():
        target = work / method

        def written(target: Path = target, method: Method = method) -> Logprobs:
            if not target.exists():
                quantize_checkpoint(
                    folder, target, QuantizeOptions(method=method, samples=samples), lambda _: None
                )
            return served(target)

        found[name] = written
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("wheel", type=Path)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--work", type=Path, default=Path("/tmp/quantization-quality"))
    arguments.add_argument("--samples", type=int, default=64, help="calibration, 512 tokens each")
    arguments.add_argument("--methods", nargs="*", help="parts of names; default: all")
    arguments.add_argument("--table", action="store_true", help="only print what is there")
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    path = options.work / "windows.jsonl"
    if not options.table:
        measure(options, path)
    rows = list(read(path).values())
    print(
        f"{datetime.date.today()}, torch {version('torch')}, against float32; text: news and"
        f" Wikipedia of gensim 4.4.0, {sum(row[ORIGINAL][0] for row in rows)} tokens; calibration:"
        f" the Python reference, {options.samples} x 512 tokens. 95 % intervals by resampling"
        " windows of 512 tokens.\n\n"
        "| weights | perplexity | of the original's | KL, nats a token | same choice |\n"
        "|---|---|---|---|---|"
    )
    for name in rows[0]:
        if not all(name in row for row in rows):
            continue  # was cut off
        cost = summarize([row[name] for row in rows])
        print(
            f"| {name} | {cost.perplexity} | {cost.perplexity_ratio} | {cost.divergence}"
            f" | {cost.same_choice} |"
        )


def read(path: Path) -> dict[int, dict[str, list[float]]]:
    """For each window of text the figures that are there, by model; the last ones count."""
    rows: dict[int, dict[str, list[float]]] = {}
    for line in path.open() if path.exists() else ():
        row = json.loads(line)
        rows.setdefault(row.pop("window"), {}).update(row)
    return rows


def measure(options: argparse.Namespace, path: Path) -> None:
    """Adds a line for each window of text, with the figures that are missing."""
    torch.set_num_threads(usable_cores())
    texts = windows(options.folder, corpus(options.wheel))
    texts = texts[:: max(1, len(texts) // (TOKENS // 511 + 1))]
    random.Random(0).shuffle(texts)  # cut short, it is still of both kinds
    found = {
        name: load()
        for name, load in models(options.folder, options.work, options.samples).items()
        if not options.methods or any(part in name for part in options.methods)
    }
    original = load_plain(options.folder)
    known = read(path)
    with path.open("a") as log:
        for window, ids in enumerate(texts):
            missing = {n: of for n, of in found.items() if n not in known.get(window, {})}
            if not missing:
                continue
            truth = logprobs(original, ids)
            row = {"window": window, ORIGINAL: compare(truth, truth, ids)}
            row |= {n: compare(truth, of(ids), ids) for n, of in missing.items()}
            log.write(f"{json.dumps(row)}\n")
            log.flush()


if __name__ == "__main__":
    main()
