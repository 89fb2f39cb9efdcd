"""The peer `transformers.generate`, in its batched call and one by one: see `workload.Job`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from importlib.metadata import version

import torch
from transformers import AutoModelForCausalLM

import workload as work


class FirstToken:
    """A streamer that notes when each token came; the first `put` is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def main(job: work.Job) -> None:
    repeats = job.repeats
    model = AutoModelForCausalLM.from_pretrained(job.folder, dtype=getattr(torch, job.dtype)).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 2

    def generate(batch: list[list[int]], new: int, streamer: FirstToken | None = None) -> float:
        ids = torch.tensor(batch)
        begun = time.perf_counter()
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            streamer=streamer,
        )
        assert out.shape[1] == ids.shape[1] + new
        return time.perf_counter() - begun

    def stream(repeat: int) -> tuple[float, float]:
        timing = FirstToken()
        begun = time.perf_counter()
        generate([work.prompt(repeat)], work.NEW_TOKENS, timing)
        first, last = timing.times[1], timing.times[-1]
        return first - begun, (work.NEW_TOKENS - 1) / (last - first)

    def sequential(repeat: int) -> float:
        begun = time.perf_counter()
        for ids in work.prompts(100 + repeat):
            generate([ids], work.NEW_TOKENS)
        return work.STREAMS * work.NEW_TOKENS / (time.perf_counter() - begun)

    total = work.STREAMS * work.NEW_TOKENS
    with torch.inference_mode():
        generate([work.prompt(999_999)], 1)
        start = time.perf_counter() - job.started
        generate([work.prompt(999_998)], 16)
        singles = [stream(repeat) for repeat in range(repeats)]
        result = work.Result(
            engine="transformers.generate",
            version=version("transformers"),
            start_seconds=start,
            ttft_seconds=work.median(repeats, lambda r: singles[r][0]),
            decode_rate=work.median(repeats, lambda r: singles[r][1]),
            batched_rate=work.median(
                repeats, lambda r: total / generate(work.prompts(1 + r), work.NEW_TOKENS)
            ),
            sequential_rate=sequential(0),
        )
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main(work.Job(**json.loads(sys.argv[1])))
