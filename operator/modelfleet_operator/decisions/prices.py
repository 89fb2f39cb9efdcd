"""Prices that change at a moment: which one counts now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .observed import Accelerator, Observed


def with_current_prices(seen: Observed, now: float) -> Observed:
    """The same with the prices of now, of the classes that concern the deployment."""
    names = {*seen.deployment.accelerators, *(w.accelerator for w in seen.workers)}
    accelerators = current_prices(seen.accelerators, names, now)
    if accelerators is seen.accelerators:
        return seen
    return replace(seen, accelerators=accelerators)


def current_prices(
    accelerators: Mapping[str, Accelerator], names: Iterable[str], now: float
) -> Mapping[str, Accelerator]:
    """The same mapping, unless a price of one of these classes has changed by now.

    4 an hour, from 1000 on 3, from 2000 on 5: at 1500 -> 3.
    """
    changed = {
        name: price_now(found, now)
        for name in names
        if (found := accelerators.get(name)) is not None and found.price_changes
    }
    return {**accelerators, **changed} if changed else accelerators


def price_now(accelerator: Accelerator, now: float) -> Accelerator:
    """With the latest change whose moment has come, if there is one."""
    past = [change for change in accelerator.price_changes if change.at <= now]
    if not past:
        return accelerator
    latest = max(past, key=lambda change: change.at)
    return replace(accelerator, price=latest.price, spot_price=latest.spot_price)


def next_price_change(seen: Observed, now: float) -> float | None:
    """When a class that the deployment names has another price, Unix seconds; None: never."""
    coming = [
        change.at
        for name in seen.deployment.accelerators
        if (found := seen.accelerators.get(name)) is not None
        for change in found.price_changes
        if change.at > now
    ]
    return min(coming, default=None)
