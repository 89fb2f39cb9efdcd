"""The typed view of a ModelDeployment; the CRD is generated from it (see crd.py).

Manifests spell fields in camelCase, durations as `90s` and memory as `2Gi`; here the names are
Python's, durations are seconds and memory is bytes. An explicit `null` is an absent field, as the
Kubernetes API server reads it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from .formats import Duration, Format, Memory, Portion

GROUP, VERSION, KIND, PLURAL = "modelfleet.dev", "v1alpha1", "ModelDeployment", "modeldeployments"
API_VERSION = f"{GROUP}/{VERSION}"


class Rule(BaseModel):
    """A CEL expression for the CRD; the same check in Python stands beside it."""

    model_config = ConfigDict(frozen=True)
    rule: str
    message: str


class ApiModel(BaseModel):
    """Strict, frozen, camelCase in manifests; unknown fields are errors."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        validate_default=False,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected each name once, found {', '.join(twice)} more than once")
    return names


def as_tuple(value: Any) -> Any:
    """A manifest's list as the strict models want it."""
    return tuple(value) if isinstance(value, list) else value


DNS_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
ServedName = Annotated[
    str,
    Format(
        what="a model name of letters, digits, '.', '_', ':' and '-' that begins and ends with a "
        "letter or digit (no '/': that is reserved for NAMESPACE/NAME)",
        pattern="[A-Za-z0-9]([-A-Za-z0-9._:]*[A-Za-z0-9])?",
        max_length=128,
    ),
]


ClassName = Annotated[
    str, Format(what="the name of an AcceleratorClass", pattern=DNS_LABEL, max_length=63)
]


OPEN_OBJECT: JsonDict = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
PodLabels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)]
PodAnnotations = Annotated[
    dict[str, Annotated[str, Field(max_length=16_384)]], Field(max_length=64)
]


class SecretKeyRef(ApiModel):
    """One key of a Secret in the object's namespace."""

    name: Annotated[
        str,
        Format(
            what="the name of a Secret",
            pattern="[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
            max_length=253,
        ),
    ]
    """Name of the Secret. Required."""
    key: Annotated[str, Format(what="a key of a Secret", pattern="[-._a-zA-Z0-9]+", max_length=253)]
    """Key in the Secret's data. Required."""


SOURCES = (
    "hf://[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*",
    r"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\x00-\x1f]*)?",
    r"file:///[^\x00-\x1f]+",
    r"s3://[a-z0-9][-a-z0-9.]+[a-z0-9](/[^\x00-\x1f]*)?",
    # No default registry, and no default tag: what is served is said.
    "oci://[A-Za-z0-9][-A-Za-z0-9.]*(:[0-9]+)?(/[a-z0-9]+([-._]+[a-z0-9]+)*)+"
    "(:[A-Za-z0-9_][-A-Za-z0-9._]{0,127}|@sha256:[0-9a-f]{64})",
)


class Model(ApiModel):
    """Which model, and how its weights are read."""

    rules = (
        Rule(
            rule="!has(self.revision) || self.source.startsWith('hf://')",
            message="revision belongs to an hf:// source: remove it",
        ),
        Rule(
            rule="!has(self.tokenSecretRef) || self.source.startsWith('hf://')",
            message="tokenSecretRef belongs to an hf:// source: remove it",
        ),
    )

    source: Annotated[
        str,
        Format(
            what="hf://OWNER/NAME, pvc://CLAIM/PATH, file:///ABSOLUTE/PATH, s3://BUCKET/PREFIX or "
            "oci://REGISTRY/REPOSITORY:TAG (or @sha256:DIGEST)",
            pattern="|".join(SOURCES),
            max_length=1024,
        ),
    ]
    """Where the model comes from, as Hugging Face files with safetensors: hf://OWNER/NAME (a hub),
    pvc://CLAIM/PATH (a PersistentVolumeClaim of the namespace), file:///ABSOLUTE/PATH (the worker's
    machine), s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY:TAG (or @sha256:DIGEST). Required."""
    revision: (
        Annotated[
            str,
            Format(
                what="a branch, tag or commit",
                pattern="[A-Za-z0-9][-A-Za-z0-9._/]*",
                max_length=128,
            ),
        ]
        | None
    ) = None
    """Branch, tag or commit of an hf:// source. Default: main."""
    served_names: Annotated[
        Annotated[
            tuple[ServedName, ...],
            Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}),
            AfterValidator(_unique),
        ]
        | None,
        BeforeValidator(as_tuple),
    ] = None
    """Short names that clients may ask for, unique in an installation: letters, digits and . _ : -
    without '/', so that no short name can be another deployment's NAMESPACE/NAME, which always
    answers. Default: the object's name."""
    dtype: Literal["Auto", "Float32", "BFloat16", "Float16"] = "Auto"
    """Number format of weights and activations; Auto is the checkpoint's own. Default: Auto."""
    context_length: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Tokens that prompt and answer may have together. Default and upper bound: the model's own."""
    generation_defaults: Literal["Checkpoint", "None"] = "Checkpoint"
    """What decides temperature, top_p, top_k, min_p and repetition_penalty of requests that do not
    say them. Checkpoint: the model's generation_config.json, where it has a value. None: the API's
    own defaults (temperature 1, the others off). Default: Checkpoint."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret with the hub's access token for an hf:// source, given to workers as HF_TOKEN; on one
    machine (`modelfleet up`) a Secret of the same files, or else the environment's HF_TOKEN.
    Default: none."""

    @model_validator(mode="after")
    def _hub_fields_need_a_hub(self) -> Self:
        for field, value in [
            ("revision", self.revision),
            ("tokenSecretRef", self.token_secret_ref),
        ]:
            if value is not None and not self.source.startswith("hf://"):
                raise ValueError(f"{field} belongs to an hf:// source: remove it")
        return self


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


class Scaling(ApiModel):
    """How many workers, and when."""

    rules = (
        Rule(
            rule="!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            message="minReplicas must not be greater than maxReplicas",
        ),
        Rule(
            rule="!has(self.replicas) || self.mode == 'External'",
            message="replicas is obeyed in mode External only: set mode to External, or remove "
            "replicas and use minReplicas and maxReplicas",
        ),
    )

    mode: Literal["Auto", "External"] = "Auto"
    """Auto: Modelfleet decides the count from the queue. External: `replicas` says it, written by a
    person, kubectl scale, an HPA or KEDA. Default: Auto."""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Workers kept in mode Auto even without requests; 0 lets the model sleep. In mode External the
    count until `replicas` is written. Default: 1."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Workers at most in mode Auto; mode External ignores it. Default: minReplicas, at least 1."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Workers wanted in mode External, where the scale subresource writes. An HPA reads it before
    it writes, so give it a first value. Default: minReplicas."""
    target_queue_depth: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Requests, waiting in gateways and running on workers together, that one worker should have;
    mode Auto adds workers above it. Default: 16."""
    idle_timeout: Duration = 300.0
    """Time without any request after which mode Auto lets the last worker sleep, if minReplicas is
    0. A duration (90s, 1h30m). Default: 5m."""
    scale_down_delay: Duration = 300.0
    """Mode Auto keeps as many workers as were needed at the peak of this past time. A duration
    (90s, 1h30m). Default: 5m."""

    @property
    def ceiling(self) -> int:
        """Workers at most in mode Auto."""
        return max(self.min_replicas, 1) if self.max_replicas is None else self.max_replicas

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.min_replicas > self.ceiling:
            raise ValueError(
                f"minReplicas must not be greater than maxReplicas, found {self.min_replicas} > "
                f"{self.max_replicas}"
            )
        if self.replicas is not None and self.mode != "External":
            raise ValueError(self.rules[1].message)
        return self


class Placement(ApiModel):
    """On which nodes workers run; one machine (`modelfleet up`) ignores it."""

    rules = (
        Rule(
            # The API server checks `default: {}` by the rules before it fills in what is in it.
            rule="!has(self.accelerators) || "
            "self.accelerators.all(a, self.accelerators.exists_one(b, a == b))",
            message="accelerators must name each class once",
        ),
    )

    accelerators: Annotated[
        tuple[ClassName, ...],
        Field(max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        AfterValidator(_unique),
        BeforeValidator(as_tuple),
    ] = ()
    """Names of AcceleratorClasses, best first; a worker that finds no node of one class is placed
    on the next. Default: none, the scheduler and spec.podTemplate alone choose."""
    fallback_after: Duration = 60.0
    """Time that a worker waits for a node of one class before the next class is tried; a class that
    was short is tried again for new workers 5 minutes later. Longer than an autoscaler of nodes
    needs, where there is one. A duration (90s, 1h30m). Default: 1m."""


class ColdStart(ApiModel):
    """What happens to requests while no worker is ready."""

    hold_timeout: Duration = 600.0
    """Time that a request waits for a worker before it is refused with 503. A duration (90s,
    1h30m). Default: 10m."""
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Requests that may wait in one gateway; one more is refused with 429. Default: 1000."""


class Rollout(ApiModel):
    """How a change of what runs in a worker replaces the workers that are there."""

    rules = (
        Rule(
            rule="!has(self.maxSurge) || !has(self.maxUnavailable) || "
            "!(string(self.maxSurge) in ['0', '0%'] && "
            "string(self.maxUnavailable) in ['0', '0%'])",
            message="maxSurge and maxUnavailable must not both be 0: nothing could be replaced",
        ),
    )

    max_surge: Annotated[int | str, Portion(1000)] = 1
    """Workers beyond those wanted that may exist while a change rolls, draining ones included since
    each has its accelerator: a count, or percent of the wanted ones rounded up ("25%"). 0 where no
    accelerator is to spare: old workers drain first then. Default: 1."""
    max_unavailable: Annotated[int | str, Portion(1000)] = 0
    """Ready workers that may be missing because a change rolls: a count, or percent of the wanted
    ones rounded down ("25%"). Default: 0."""
    revision_history_limit: Annotated[int, Field(ge=0, le=100)] = 10
    """Old revisions that are kept as ControllerRevisions, beside those that are in use. Default:
    10."""

    @model_validator(mode="after")
    def _something_moves(self) -> Self:
        if {self.max_surge, self.max_unavailable} <= {0, "0%"}:
            raise ValueError(self.rules[0].message)
        return self


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
    spec: Annotated[dict[str, Any], Field(json_schema_extra=OPEN_OBJECT)] = {}
    """A pod's spec, as in core/v1: pull secrets, service account, node affinity, sidecars. Its
    container `worker` is laid under Modelfleet's own: env, envFrom, resources, volumeMounts. What
    Modelfleet sets itself is refused here. On one machine (`modelfleet up`) only that
    container's env and envFrom count, with Secrets and ConfigMaps of the same files. Default:
    empty."""


class Spec(ApiModel):
    """What the user wants."""

    model: Model
    """Which model, and how its weights are read. Required."""
    quantization: Quantization = Quantization()
    """Weights of fewer bits. Default: every field's own default."""
    engine: Engine = Engine()
    """Limits of one worker's engine. Default: every field's own default."""
    scaling: Scaling = Scaling()
    """How many workers, and when. Default: every field's own default."""
    placement: Placement = Placement()
    """On which nodes workers run. Default: every field's own default."""
    cold_start: ColdStart = ColdStart()
    """What happens to requests while no worker is ready. Default: every field's own default."""
    rollout: Rollout = Rollout()
    """How a change replaces the workers that are there. Default: every field's own default."""
    pod_template: PodTemplate = PodTemplate()
    """What is laid under the worker pods. Default: empty."""


class Metadata(ApiModel):
    """What Modelfleet reads of a Kubernetes object's metadata; the rest is allowed and unused."""

    name: Annotated[
        str,
        Format(
            what="a name of lower-case letters, digits and '-' that begins and ends with a letter "
            "or digit",
            pattern=DNS_LABEL,
            max_length=63,
        ),
    ]
    namespace: Annotated[
        str, Format(what="a namespace's name", pattern=DNS_LABEL, max_length=63)
    ] = "default"
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""

    # The rest of ObjectMeta, named so that a misspelled `namespace` is still an error.
    annotations: Any = None
    deletion_grace_period_seconds: Any = None
    finalizers: Any = None
    generate_name: Any = None
    labels: Any = None
    managed_fields: Any = None
    owner_references: Any = None
    resource_version: Any = None
    self_link: Any = None


class ModelDeployment(ApiModel):
    """One model and the fleet of workers that serves it."""

    api_version: Literal["modelfleet.dev/v1alpha1"]
    kind: Literal["ModelDeployment"]
    metadata: Metadata
    spec: Spec
    status: Any = Field(default=None, exclude=True, repr=False)  # see status.py

    @property
    def full_name(self) -> str:
        """`namespace/name`: what the model is called in every part."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def served_names(self) -> tuple[str, ...]:
        """Short names that it asks for; which it owns is decided among all deployments."""
        names = self.spec.model.served_names
        return (self.metadata.name,) if names is None else names
