"""`spec.model`: which model is served, where it comes from, and under which names."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .api_model import ApiModel, Rule, as_tuple, unique
from .formats import Format

ServedName = Annotated[
    str,
    Format(
        what="a model name of letters, digits, '.', '_', ':' and '-' that begins and ends with a "
        "letter or digit (no '/': that is reserved for NAMESPACE/NAME)",
        pattern="[A-Za-z0-9]([-A-Za-z0-9._:]*[A-Za-z0-9])?",
        max_length=128,
    ),
]
SOURCES = (
    "hf://[A-Za-z0-9][-A-Za-z0-9._]*/[A-Za-z0-9][-A-Za-z0-9._]*",
    r"pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^\x00-\x1f]*)?",
    r"file:///[^\x00-\x1f]+",
    r"s3://[a-z0-9][-a-z0-9.]+[a-z0-9](/[^\x00-\x1f]*)?",
    # No default registry, and no default tag: what is served is said.
    "oci://[A-Za-z0-9][-A-Za-z0-9.]*(:[0-9]+)?(/[a-z0-9]+([-._]+[a-z0-9]+)*)+"
    "(:[A-Za-z0-9_][-A-Za-z0-9._]{0,127}|@sha256:[0-9a-f]{64})",
)


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
            AfterValidator(unique),
        ]
        | None,
        BeforeValidator(as_tuple),
    ] = None
    """Short names that clients may ask for, unique in an installation: letters, digits and . _ : -
    without '/', so that no short name can be another deployment's NAMESPACE/NAME, which always
    answers. Default: the object's name."""
    task: Literal["Auto", "Generate", "Embed"] = "Auto"
    """What the model is for: Generate (chats and completions) or Embed (/v1/embeddings). Auto: what
    the checkpoint says; an encoder, and what sentence-transformers wrote, embed. Default: Auto."""
    dtype: Literal["Auto", "Float32", "BFloat16", "Float16"] = "Auto"
    """Number format of weights and activations; Auto is the checkpoint's own. Default: Auto."""
    context_length: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Tokens that prompt and answer may have together. Default and upper bound: the model's own."""
    generation_defaults: Literal["Checkpoint", "None"] = "Checkpoint"
    """What decides temperature, top_p, top_k, min_p and repetition_penalty of requests that do not
    say them. Checkpoint: the model's generation_config.json, where it has a value. None: the API's
    own defaults (temperature 1, the others off). Default: Checkpoint."""
    tool_parser: Literal[
        "Auto",
        "None",
        "Gemma",
        "DeepSeekV3",
        "DeepSeekV31",
        "Mistral",
        "MistralList",
        "QwenCoder",
        "Hermes",
        "Granite",
        "Liquid",
        "Llama",
        "Pythonic",
        "Harmony",
    ] = "Auto"
    """How the model writes calls of tools. Auto: the checkpoint's own response_template, else what
    its chat template shows. None: it writes none, so that requests with tools are refused.
    Default: Auto."""
    reasoning_parser: Literal["Auto", "None", "Think", "Mistral", "Gemma"] = "Auto"
    """What stands around the model's reasoning, which clients get apart from its answer. Auto: what
    its chat template shows. None: all is answer. Default: Auto."""
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
