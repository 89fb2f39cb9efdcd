"""The peer `transformers.generate`, in its batched call: see `workload.Job`.

It has no server and no continuous batching: STREAMS prompts at a time are one call, padded to the
longest, which goes on until the longest answer is there.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import machine
import served
import workload as work
from projections import weight_bytes

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PADDING = 2


class TokenTimes:
    """A streamer that notes when each token of the batch came; the first `put` is the prompts."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def generate(model: Any, requests: list[work.Request]) -> list[work.Timing]:
    """One call for all of them."""
    longest = max(len(r.ids) for r in requests)
    new_tokens = max(r.new_tokens for r in requests)
    padding = [longest - len(r.ids) for r in requests]
    ids = torch.tensor(
        [[PADDING] * left + r.ids for left, r in zip(padding, requests, strict=True)]
    )
    mask = torch.arange(longest) >= torch.tensor(padding)[:, None]
    streamer = TokenTimes()
    begun = time.perf_counter()
    answers = model.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        streamer=streamer,
    )
    assert answers.shape[1] == longest + new_tokens
    _, *times = streamer.times
    return [work.Timing(begun, times[0], times[r.new_tokens - 1]) for r in requests]


def figures_of(model: Any, requests: list[work.Request]) -> work.Figures:
    """Sorted by length, so that as little as possible is padding."""
    requests = sorted(requests, key=lambda r: len(r.ids))
    batches = [requests[i : i + work.STREAMS] for i in range(0, len(requests), work.STREAMS)]
    return work.figures(requests, [t for batch in batches for t in generate(model, batch)])


def main(job: work.Job) -> None:
    dtype = DTYPES[job.weights]
    model = AutoModelForCausalLM.from_pretrained(job.folder, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PADDING
    with torch.inference_mode():
        (first,) = generate(model, [work.FIRST])
        generate(model, [work.WARMING])
        figures = {w: figures_of(model, work.requests(job, w)) for w in job.workloads}
    served.print_result(
        version=version("transformers"),
        weight_bytes=weight_bytes(job.folder, lambda *_: dtype.itemsize),
        measured=served.Measured(first.first - job.started, figures, machine.measured()),
    )


if __name__ == "__main__":
    main(work.Job(**json.loads(sys.argv[1])))
