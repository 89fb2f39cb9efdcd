"""A process that loads folder after folder under a limit of memory, and says what became of each.

Standard input: a line of JSON each, {"name", "kind" ("model" or "tokenizer"), "folder"}; standard
output: a line of JSON each, {"name", "error" (its class), "message", "grown" (bytes), "seconds"}.
The first folder is a sound one: what the process takes by then is what loading takes at all.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import psutil
import structlog

from memory_group import peak, reset_peak

_ROOM = 768 << 20  # bytes of addresses that a load may add, threads and mapped files included


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    from modelfleet_worker.loading.loader import load_model
    from modelfleet_worker.text.huggingface import HuggingFaceTokenizer

    def load(kind: str, folder: Path) -> None:
        if kind == "tokenizer":
            HuggingFaceTokenizer(folder)
        else:
            load_model(
                folder,
                kv_cache_bytes=1 << 20,
                max_sequences=4,
                max_batch_tokens=64,
                progress=lambda *_: None,
            )

    limited = False
    for line in sys.stdin:
        asked = json.loads(line)
        before, began = reset_peak(os.getpid()), time.monotonic()
        error, message = "", ""
        try:
            load(asked["kind"], Path(asked["folder"]))
        except BaseException as caught:  # a panic of Rust's is no Exception
            error, message = type(caught).__name__, str(caught)
        outcome = {
            "name": asked["name"],
            "error": error,
            "message": message,
            "grown": peak(os.getpid()) - before,
            "seconds": time.monotonic() - began,
        }
        print(json.dumps(outcome), flush=True)
        if not limited:
            limited = True
            most = psutil.Process().memory_info().vms + _ROOM
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
