"""What a change of the weights does to the choices of routers, in models with experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Of one model against the original, over all layers with experts and all tokens."""

    choices: int  # experts that the original's routers take
    changed: int  # of them, those that the other model's do not take

    @property
    def changed_share(self) -> float:
        """From 0 to 1."""
        return self.changed / max(1, self.choices)

    def __str__(self) -> str:
        return f"{self.changed_share:.2%} of the routers' {self.choices} choices changed"


def compare_choices(original: Sequence[Tensor], other: Sequence[Tensor]) -> Routing:
    """Of pairs of choices [layers, T, chosen], in any order; below 0: no experts in this layer."""
    choices = changed = 0
    for before, after in zip(original, other, strict=True):
        made = before >= 0
        kept = (before[..., None] == after[..., None, :]).any(-1)
        choices += int(made.sum())
        changed += int((made & ~kept).sum())
    return Routing(choices=choices, changed=changed)
