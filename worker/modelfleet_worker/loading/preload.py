"""What a warm standby does before it gets a model: everything but the weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from ..errors import ModelError
from ..storage.cache import Cache
from ..storage.entry import LocalModel
from ..storage.sources import find_model
from ..threads import in_thread

log = structlog.get_logger()

Preload = Callable[[], None]  # runs in a thread


def preload_cpu() -> None:
    """Imports what loading and serving need, and loads the kernels."""
    from ..devices.native.library import load_library
    from ..text.huggingface import HuggingFaceTokenizer
    from ..text.template_sandbox import prepare_templates
    from . import loader

    del HuggingFaceTokenizer, loader
    prepare_templates()
    if load_library() is None:
        _preload_torch()


def _preload_torch() -> None:
    """And starts its threads."""
    import torch
    from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast

    from ..devices.host import usable_cores
    from . import torch_llama

    # Transformers imports a name's module when the name is asked for, which these lines did.
    del AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast, torch_llama
    torch.set_num_threads(usable_cores())
    torch.ones(512, 512).add(1.0).matmul(torch.ones(512, 512))


def fetch_ahead(models: Sequence[str], model_dir: Path, cache: Cache) -> list[LocalModel]:
    """The files of models, SOURCE or SOURCE#REVISION, in the cache as long as the result lives.

    What cannot be fetched is a warning: the load of such a model says it again.
    """
    found = []
    for model in models:
        source, _, revision = model.partition("#")
        began = time.monotonic()
        try:
            local = find_model(
                source,
                revision=revision or "main",
                model_dir=model_dir,
                cache=cache,
                report=lambda phase, share: None,
            )
        except ModelError as error:
            log.warning("not fetched ahead", source=source, error=str(error))
            continue
        found.append(local)
        log.info("fetched ahead", source=source, seconds=round(time.monotonic() - began, 2))
    return found


async def run(preload: Preload) -> None:
    """Beside the event loop; a load that comes meanwhile waits only for the imports it shares."""
    began = time.monotonic()
    try:
        await in_thread(preload, "preload")
    except (ImportError, OSError, RuntimeError) as error:  # the load will report it
        log.warning("preloading failed", error=f"{type(error).__name__}: {error}")
    else:
        log.info("preloaded", seconds=round(time.monotonic() - began, 2))
