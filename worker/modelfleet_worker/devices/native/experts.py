"""The experts of a layer as the compiled step reads them. Imports no torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from ...models.experts import Experts
from . import layouts
from .packed import PackedLinear


class NativeExperts:
    """A router and networks, each of gate_up and down; a shared one, and its gate, come last."""

    def __init__(
        self,
        experts: Experts,
        router: PackedLinear,
        networks: Sequence[tuple[PackedLinear, PackedLinear]],
    ) -> None:
        structs = [layouts.ExpertStruct(up.struct, down.struct) for up, down in networks]
        array = (layouts.ExpertStruct * len(structs))(*structs)
        self._struct = layouts.ExpertsStruct(
            router=router.struct,
            expert=ctypes.addressof(array),
            count=experts.count,
            chosen=experts.chosen,
            shared=len(networks) - experts.count,
            normalized=experts.normalized,
            rounded=any(up.struct.bits < 16 for up, _ in networks),
        )
        self.router, self.networks, self._array = router, networks, array
        self.address = ctypes.addressof(self._struct)  # as long as this lives
