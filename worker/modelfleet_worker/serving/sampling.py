"""How a request's tokens are drawn: its fields, checked, and the model's defaults for the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modelfleet_proto import worker_pb2 as pb

from ..engine.request import SamplingParams
from ..errors import InvalidRequestError
from ..models.generation_config import SamplingDefaults

MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 100.0  # either way
MAX_BIASED_TOKENS = 300
_COLDEST = 1e-4  # a temperature below it divides logits by so little that only the largest counts
_RANGES = {  # ends that float32 holds exactly, so that the gateway's are the same
    "min_p": (0, 1),
    "repetition_penalty": (1 / 16, 16),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}


def read_sampling(
    request: pb.GenerateRequest, vocab_size: int, defaults: SamplingDefaults
) -> SamplingParams:
    """Raises InvalidRequestError for the first field that is wrong.

    Each field for itself: a request with a temperature of 0 and no word of a repetition penalty is
    greedy under the model's own.
    """
    sampling, unstated = request.sampling, request.sampling.unstated
    temperature, top_p = sampling.temperature, sampling.top_p
    for name, (least, most) in _RANGES.items():
        value = getattr(sampling, name)
        if value != 0 and not least <= value <= most:  # 0 is off; NaN is in no range
            raise InvalidRequestError(f"{name} must be from {least:g} to {most:g}, found {value}")
    if not request.HasField("sampling"):
        top_p = 1.0  # an absent message is greedy; a present one has to say its top_p
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InvalidRequestError(f"temperature must be 0 or more, found {temperature}")
    if not 0 < top_p <= 1:
        raise InvalidRequestError(f"top_p must be above 0 and at most 1, found {top_p}")
    if request.logprobs.top > MAX_TOP_LOGPROBS:
        raise InvalidRequestError(
            f"at most {MAX_TOP_LOGPROBS} top logprobs a token, found {request.logprobs.top}"
        )
    if unstated.temperature and defaults.temperature is not None:
        temperature = defaults.temperature
    if unstated.top_p and defaults.top_p is not None:
        top_p = defaults.top_p
    top_k = defaults.top_k if unstated.top_k else None
    min_p = defaults.min_p if unstated.min_p else None
    penalty = defaults.repetition_penalty if unstated.repetition_penalty else None
    return SamplingParams(
        temperature=temperature if temperature >= _COLDEST else 0.0,
        top_k=sampling.top_k if top_k is None else top_k,
        top_p=top_p,
        min_p=sampling.min_p if min_p is None else min_p,
        logit_bias=_read_bias(sampling.logit_bias, vocab_size),
        repetition_penalty=(sampling.repetition_penalty or 1.0) if penalty is None else penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=request.seed,
        choice=request.choice,
        logprobs=request.logprobs.top if request.logprobs.enabled else None,
    )


def _read_bias(bias: Mapping[int, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    if len(bias) > MAX_BIASED_TOKENS:
        raise InvalidRequestError(
            f"logit_bias may name at most {MAX_BIASED_TOKENS} tokens, found {len(bias)}"
        )
    for token_id, value in bias.items():
        if token_id >= vocab_size:
            raise InvalidRequestError(
                f"logit_bias names token {token_id}, but the vocabulary has {vocab_size} tokens"
            )
        if not abs(value) <= MAX_LOGIT_BIAS:  # NaN neither
            raise InvalidRequestError(
                f"logit_bias[{token_id}] must be from {-MAX_LOGIT_BIAS:g} to {MAX_LOGIT_BIAS:g}, "
                f"found {value}"
            )
    return tuple(sorted(bias.items()))
