"""What one worker is: the limits of its engine, the format of its weights, its pod."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from .api_model import OPEN_OBJECT, ApiModel, as_tuple
from .formats import Format, Memory

PodLabels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)]
PodAnnotations = Annotated[
    dict[str, Annotated[str, Field(max_length=16_384)]], Field(max_length=64)
]


class Engine(ApiModel):
    """Limits of one worker's engine."""

    max_sequences: Annotated[int, Field(ge=1, le=4096)] = 64
    """Requests that one worker runs at once. Default: 64."""
    max_batch_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = 2048
    """Tokens that one engine step computes at most; longer prompts are prefilled in chunks.
    Default: 2048."""
    kv_cache_memory: Memory | None = None
    """Memory of one worker's KV cache, as a quantity (512Mi, 2Gi). Default: a quarter of the
    memory that is free once the weights are loaded, at most 2Gi."""
    prefix_caching: bool = True
    """Whether prompts that begin alike share their KV cache. Default: true."""
    deterministic: bool = False
    """Whether an answer must not depend, in any bit, on the requests that are computed beside it.
    The compiled step of CPU workers always has that; a worker whose device does not have it fails
    to load the model. Default: false."""


QuantizedWeights = Literal["None", "Int8", "Int4"]


class QuantizationOverride(ApiModel):
    """Another format for some modules."""

    modules: Annotated[
        str,
        Format(
            what="a module's name as in the checkpoint, with * for anything, like *.down_proj",
            pattern=r"[A-Za-z0-9_.*]+",
            max_length=256,
        ),
    ]
    """Names of modules as in the checkpoint, with * for anything: model.layers.0.*, *.down_proj,
    lm_head. A pattern that matches no module fails the load. Required."""
    weights: QuantizedWeights
    """Format of their weights: None, Int8 or Int4. Required."""


class Quantization(ApiModel):
    """What is done to the weights of linear layers while a worker loads them, and to the cache.

    A checkpoint that is quantized already (AWQ, GPTQ, compressed-tensors) loads as it is.
    """

    weights: QuantizedWeights = "None"
    """None: as the checkpoint has them. Int8: one scale an output. Int4: a scale and a zero point
    for each group of inputs; the head (lm_head) is Int8 then. Default: None."""
    group_size: Literal[32, 64, 128] | None = None
    """Inputs that share a scale in Int4; a layer whose inputs it does not divide takes the next
    smaller one. Default: 128."""
    overrides: Annotated[
        Annotated[
            tuple[QuantizationOverride, ...],
            Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ],
        BeforeValidator(as_tuple),
    ] = ()
    """Formats of single modules; the first that matches decides. Default: none."""
    kv_cache: Literal["Auto", "Int8"] = "Auto"
    """How the cache keeps keys and values. Auto: in the model's type. Int8: a scale for each token
    and head, so that the same memory holds nearly twice as many tokens. Default: Auto."""


class PodTemplateMetadata(ApiModel):
    """Metadata of worker pods, beside Modelfleet's own."""

    labels: PodLabels | None = None
    """Labels; the prefix modelfleet.dev/ is Modelfleet's own. Default: none."""
    annotations: PodAnnotations | None = None
    """Annotations. Default: none."""


class PodTemplate(ApiModel):
    """What is laid under the worker pods."""

    metadata: PodTemplateMetadata = PodTemplateMetadata()
    """Labels and annotations of the pods. Default: none."""
    spec: Annotated[dict[str, Any], Field(json_schema_extra=OPEN_OBJECT)] = {}  # noqa: RUF012
    """A pod's spec, as in core/v1: pull secrets, service account, node affinity, sidecars. Its
    container `worker` is laid under Modelfleet's own: env, envFrom, resources, volumeMounts. What
    Modelfleet sets itself is refused here. On one machine (`modelfleet up`) only that
    container's env and envFrom count, with Secrets and ConfigMaps of the same files. Default:
    empty."""
