"""VM sizes of the region: those used for fine-tuning and serving chat models, and a few plain ones.

Cores, GPUs and memory come from Microsoft's page of each series; families are spelled as in ``Compute_ListSizes``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["SIZES", "Size", "find"]


@dataclasses.dataclass(frozen=True)
class Size:
    """One VM size.

    Args:
        name: as Azure spells it.
        family: its quota family.
        cores: vCPUs.
        gpus: per node.
        memory: GiB.
    """

    name: str
    family: str
    cores: int
    gpus: int
    memory: float

    def count_reserved(self, instances: int) -> int:
        """Return the instances that a deployment's quota must cover: for most sizes a fifth more than requested, for upgrades."""
        return instances if self.name in NO_RESERVE else -(-instances * 6 // 5)

    def to_wire(self) -> dict[str, Any]:
        """Return the size as ``vmSizes`` lists it."""
        return {
            "name": self.name,
            "family": self.family,
            "vCPUs": self.cores,
            "gpus": self.gpus,
            "osVhdSizeMB": 1047552,
            "maxResourceVolumeMB": self.cores * 7168,
            "memoryGB": self.memory,
            "lowPriorityCapable": True,
            "premiumIO": True,
            "supportedComputeTypes": ["AmlCompute", "ComputeInstance"],
        }


NO_RESERVE = frozenset(
    f"Standard_{name}"
    for name in (
        "NC24ads_A100_v4", "NC48ads_A100_v4", "NC96ads_A100_v4", "ND96asr_v4", "ND96amsr_A100_v4", "NC40ads_H100_v5",
        "NC80adis_H100_v5", "ND96isr_H100_v5", "ND40rs_v2",
    )
)  # fmt: skip
"""The sizes marked "Skip 20% Reservation" in Microsoft's "Managed online endpoints SKU list"."""

SIZES = tuple(
    Size(f"Standard_{name}", family, cores, gpus, memory)
    for name, family, cores, gpus, memory in (
        ("DS2_v2", "standardDSv2Family", 2, 0, 7),
        ("DS3_v2", "standardDSv2Family", 4, 0, 14),
        ("DS12_v2", "standardDSv2Family", 4, 0, 28),
        ("D12_v2", "standardDv2Family", 4, 0, 28),
        ("D2s_v3", "standardDSv3Family", 2, 0, 8),
        ("D4s_v3", "standardDSv3Family", 4, 0, 16),
        ("D8s_v3", "standardDSv3Family", 8, 0, 32),
        ("E4s_v3", "standardESv3Family", 4, 0, 32),
        ("F4s_v2", "standardFSv2Family", 4, 0, 8),
        ("F8s_v2", "standardFSv2Family", 8, 0, 16),
        ("NC6", "standardNCFamily", 6, 1, 56),
        ("NC12", "standardNCFamily", 12, 2, 112),
        ("NC24", "standardNCFamily", 24, 4, 224),
        ("NC24r", "standardNCFamily", 24, 4, 224),
        ("NC6s_v3", "standardNCSv3Family", 6, 1, 112),
        ("NC12s_v3", "standardNCSv3Family", 12, 2, 224),
        ("NC24s_v3", "standardNCSv3Family", 24, 4, 448),
        ("NC24rs_v3", "standardNCSv3Family", 24, 4, 448),
        ("NC4as_T4_v3", "Standard NCASv3_T4 Family", 4, 1, 28),
        ("NC8as_T4_v3", "Standard NCASv3_T4 Family", 8, 1, 56),
        ("NC16as_T4_v3", "Standard NCASv3_T4 Family", 16, 1, 110),
        ("NC64as_T4_v3", "Standard NCASv3_T4 Family", 64, 4, 440),
        ("ND40rs_v2", "standardNDSv2Family", 40, 8, 672),
        ("NC24ads_A100_v4", "StandardNCADSA100v4Family", 24, 1, 220),
        ("NC48ads_A100_v4", "StandardNCADSA100v4Family", 48, 2, 440),
        ("NC96ads_A100_v4", "StandardNCADSA100v4Family", 96, 4, 880),
        ("ND96asr_v4", "Standard NDASv4_A100 Family", 96, 8, 900),
        ("ND96amsr_A100_v4", "Standard NDAMSv4_A100Family", 96, 8, 1900),
        ("NC40ads_H100_v5", "StandardNCadsH100v5Family", 40, 1, 320),
        ("NC80adis_H100_v5", "StandardNCadsH100v5Family", 80, 2, 640),
        ("ND96isr_H100_v5", "standardNDSH100v5Family", 96, 8, 1900),
    )
)

_BY_NAME = {size.name.lower(): size for size in SIZES}


def find(name: str) -> Size | None:
    """Return the size with this name, or None; names ignore case."""
    return _BY_NAME.get(name.lower())
