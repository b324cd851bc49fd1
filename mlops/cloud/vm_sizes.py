"""VM sizes: cores, GPUs and quota family, and how many instances an endpoint's quota must cover.

Cores, GPUs, families and the reserve follow Microsoft's "Managed online endpoints SKU list" (2025) and its pages of the VM series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["BY_NAME", "VmSize", "count_reserved_instances", "find"]


@dataclass(frozen=True, kw_only=True)
class VmSize:
    """A VM size."""

    name: str
    gpus: int
    cores: int
    family: str
    """The quota family, e.g. ``StandardNCADSA100v4Family``; compare it without regard to case."""


BY_NAME: Mapping[str, VmSize] = {
    f"standard_{name}".lower(): VmSize(name=f"Standard_{name}", gpus=gpus, cores=cores, family=family)
    for name, family, cores, gpus in (
        ("NC24ads_A100_v4", "StandardNCADSA100v4Family", 24, 1),
        ("NC48ads_A100_v4", "StandardNCADSA100v4Family", 48, 2),
        ("NC96ads_A100_v4", "StandardNCADSA100v4Family", 96, 4),
        ("ND96asr_v4", "Standard NDASv4_A100 Family", 96, 8),
        ("ND96amsr_A100_v4", "Standard NDAMSv4_A100Family", 96, 8),
        ("NC40ads_H100_v5", "StandardNCadsH100v5Family", 40, 1),
        ("NC80adis_H100_v5", "StandardNCadsH100v5Family", 80, 2),
        ("ND96isr_H100_v5", "standardNDSH100v5Family", 96, 8),
        ("ND40rs_v2", "standardNDSv2Family", 40, 8),
    )
}
"""The sizes that chat models are fine-tuned and served on, for an identity that may not list those of the region."""

NO_RESERVE = frozenset(BY_NAME) | {"standard_nd96is_h100_v5"}
"""Sizes for which the service doesn't reserve a fifth of an endpoint's instances for upgrades."""


def find(name: str, offered: Mapping[str, VmSize]) -> VmSize | None:
    """Return a size by its name, ignoring case: one that the region offers, else one of :data:`BY_NAME`, else None."""
    return offered.get(name.lower()) or BY_NAME.get(name.lower())


def count_reserved_instances(size: str, instances: int) -> int:
    """Return the instances of a deployment that quota must cover: with the reserve for upgrades, ``ceil(1.2 × instances)``."""
    return instances if size.lower() in NO_RESERVE else -(-instances * 6 // 5)
