"""What differs between the layers of a model: their windows and their ropes. Imports no torch."""

from __future__ import annotations

from typing import Any

from ..errors import ModelError, NotOurModulesError
from .config_fields import LONGEST_CONTEXT, Fields
from .families import Ropes, Windows
from .rope_config import Rope, parse_rope

_FULL, _SLIDING = "full_attention", "sliding_attention"
_FIRST = 28  # transformers' default of max_window_layers


def read_windows(
    windows: Windows | None, fields: Fields, rotated: tuple[bool, ...]
) -> tuple[int | None, ...]:
    """Of each layer the tokens that it sees, None: all. `rotated`: whether each has a rope.

    By the rules of transformers' configs. Raises NotOurModulesError and ModelError.
    """
    layers = len(rotated)
    if windows is None:
        return (None,) * layers
    on = windows.switch is None or fields.flag(windows.switch, default=False)
    window = _window(windows, fields) if on else None
    kinds = fields.raw.get("layer_types") if windows.reads_types else None
    if kinds is None:
        return tuple(window if slides else None for slides in _rule(windows, fields, rotated))
    known = {_FULL: None, _SLIDING: window}
    fits = isinstance(kinds, list) and len(kinds) == layers
    if not fits or not all(isinstance(kind, str) and kind in known for kind in kinds):
        raise NotOurModulesError("config.json: layer_types is not one type for each layer of ours")
    if window is None and _SLIDING in kinds:
        raise NotOurModulesError("config.json: layer_types has windows, but no size of them")
    return tuple(known[kind] for kind in kinds)


def slides(windows: Windows | None, fields: Fields) -> bool:
    """Whether there is a size of windows, whichever layers have one. Nothing is a default."""
    return windows is not None and fields.raw.get("sliding_window", windows.default) is not None


def _window(windows: Windows, fields: Fields) -> int | None:
    if not slides(windows, fields):
        return None
    return fields.integer("sliding_window", windows.default, most=LONGEST_CONTEXT)


def _rule(windows: Windows, fields: Fields, rotated: tuple[bool, ...]) -> tuple[bool, ...]:
    """Which layers have a window where layer_types does not say it."""
    layers = range(len(rotated))
    if windows.first is not None:
        first = fields.raw.get(windows.first, _FIRST)
        if type(first) is not int:
            raise ModelError(f"config.json: {windows.first} is {first!r}: a number is expected")
        return tuple(i >= first for i in layers)
    if windows.every is not None:
        every = windows.every
        if windows.every_field is not None:
            every = fields.integer(windows.every_field, every)
        return tuple((i + 1) % every != 0 for i in layers)
    if windows.without_rope:
        return tuple(not is_rotated for is_rotated in rotated)
    return (True,) * len(rotated)


def read_rotated(ropes: Ropes, fields: Fields, layers: int) -> tuple[bool, ...]:
    """Whether each layer has a rope. Raises ModelError."""
    if ropes.rotated is None:
        return (True,) * layers
    flags = fields.raw.get(ropes.rotated)
    if flags is None:
        interval = fields.integer(*ropes.interval)
        return tuple((i + 1) % interval != 0 for i in range(layers))
    if not isinstance(flags, list) or len(flags) < layers or not set(flags) <= {0, 1}:
        raise ModelError(f"config.json: {ropes.rotated} is not 0 or 1 for each layer")
    return tuple(map(bool, flags[:layers]))


def read_rope(ropes: Ropes, raw: dict[str, Any], context: int, head_dim: int) -> Rope:
    """The rope of the layers; where they have two, of those that see all tokens.

    Raises NotOurModulesError and ModelError.
    """
    if ropes.local_theta is not None:
        raw = _typed(raw, _FULL, raw.get("rope_theta", ropes.theta), raw.get("rope_scaling"))
    return parse_rope(
        raw,
        context,
        head_dim,
        theta=ropes.theta,
        original=ropes.original_context,
        partial=ropes.partial,
        renamed=ropes.renamed,
    )


def read_local_rope(ropes: Ropes, raw: dict[str, Any], context: int, head_dim: int) -> Rope | None:
    """Of the layers with a window, if they have one of their own.

    Raises NotOurModulesError and ModelError.
    """
    if ropes.local_theta is None:
        return None
    theta = ropes.local_theta
    if ropes.local_field is not None:
        theta = raw.get(ropes.local_field, theta)
    return parse_rope(_typed(raw, _SLIDING, theta, None), context, head_dim)


def _typed(raw: dict[str, Any], kind: str, theta: object, scaling: object) -> dict[str, Any]:
    """What a config says of one type of layers, as a config of this one."""
    given = raw.get("rope_parameters") or {}
    if not isinstance(given, dict) or not given.keys() <= {_FULL, _SLIDING}:
        raise NotOurModulesError("config.json: rope_parameters is not one for each type of layers")
    if scaling is not None and (given or not isinstance(scaling, dict)):
        raise NotOurModulesError("config.json: rope_parameters and rope_scaling are both there")
    rope = given.get(kind) or scaling or {}
    if not isinstance(rope, dict):
        raise ModelError(f"config.json: rope is {rope!r}: an object is expected")
    if scaling is not None and "rope_type" not in rope:
        raise NotOurModulesError("config.json: rope_scaling has no rope_type")
    if rope.get("rope_type", rope.get("type")) in ("dynamic", "longrope"):
        raise NotOurModulesError("config.json: a rope of some layers looks at the length")
    return {"rope_parameters": {"rope_theta": theta, **rope}}
