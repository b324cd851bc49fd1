"""VM sizes of the region: all series that Azure ML documents for clusters, compute instances and managed endpoints.

Cores, GPUs and memory come from Microsoft's page of each series. Families are spelled as in ``Compute_ListSizes``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
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
            "premiumIO": "s" in self.name.removeprefix("Standard_").lower(),
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

SERIES = (
    # family, name with the number of cores, GiB of memory per core, cores
    ("standardAv2Family", "A{}_v2", 2, "1 2 4 8"),
    ("standardAv2Family", "A{}m_v2", 8, "2 4 8"),
    ("standardDSv3Family", "D{}s_v3", 4, "2 4 8 16 32 48 64"),
    ("standardDv3Family", "D{}_v3", 4, "2 4 8 16 32 48 64"),
    ("standardDv4Family", "D{}_v4", 4, "2 4 8 16 32 48 64"),
    ("standardDSv4Family", "D{}s_v4", 4, "2 4 8 16 32 48 64"),
    ("standardDDv4Family", "D{}d_v4", 4, "2 4 8 16 32 48 64"),
    ("standardDDSv4Family", "D{}ds_v4", 4, "2 4 8 16 32 48 64"),
    ("standardDAv4Family", "D{}a_v4", 4, "2 4 8 16 32 48 64 96"),
    ("standardDASv4Family", "D{}as_v4", 4, "2 4 8 16 32 48 64 96"),
    ("standardDv5Family", "D{}_v5", 4, "2 4 8 16 32 48 64 96"),
    ("standardDSv5Family", "D{}s_v5", 4, "2 4 8 16 32 48 64 96"),
    ("standardDDv5Family", "D{}d_v5", 4, "2 4 8 16 32 48 64 96"),
    ("standardDDSv5Family", "D{}ds_v5", 4, "2 4 8 16 32 48 64 96"),
    ("standardDASv5Family", "D{}as_v5", 4, "2 4 8 16 32 48 64 96"),
    ("standardDADSv5Family", "D{}ads_v5", 4, "2 4 8 16 32 48 64 96"),
    ("standardDCSv2Family", "DC{}_v2", 4, "8"),
    ("standardDCSv2Family", "DC{}s_v2", 4, "1 2 4"),
    ("standardEv3Family", "E{}_v3", 8, "2 4 8 16 20 32 48"),
    ("standardESv3Family", "E{}s_v3", 8, "2 4 8 16 20 32 48"),
    ("standardEv4Family", "E{}_v4", 8, "2 4 8 16 20 32 48"),
    ("standardESv4Family", "E{}s_v4", 8, "2 4 8 16 20 32 48"),
    ("standardEDv4Family", "E{}d_v4", 8, "2 4 8 16 20 32 48"),
    ("standardEDSv4Family", "E{}ds_v4", 8, "2 4 8 16 20 32 48"),
    ("standardEAv4Family", "E{}a_v4", 8, "2 4 8 16 20 32 48 64"),
    ("standardEASv4Family", "E{}as_v4", 8, "2 4 8 16 20 32 48 64"),
    ("standardEv5Family", "E{}_v5", 8, "2 4 8 16 20 32 48 64"),
    ("standardESv5Family", "E{}s_v5", 8, "2 4 8 16 20 32 48 64"),
    ("standardEDv5Family", "E{}d_v5", 8, "2 4 8 16 20 32 48 64"),
    ("standardEDSv5Family", "E{}ds_v5", 8, "2 4 8 16 20 32 48 64"),
    ("standardEASv5Family", "E{}as_v5", 8, "2 4 8 16 20 32 48 64"),
    ("standardEADSv5Family", "E{}ads_v5", 8, "2 4 8 16 20 32 48 64"),
    ("standardFFamily", "F{}", 2, "1 2 4 8 16"),
    ("standardFSFamily", "F{}s", 2, "1 2 4 8 16"),
    ("standardFSv2Family", "F{}s_v2", 2, "2 4 8 16 32 48 64 72"),
    ("standardFXMDVSFamily", "FX{}mds", 21, "4 12 24 36 48"),
    ("standardLSv2Family", "L{}s_v2", 8, "8 16 32 48 64 80"),
    ("standardLSv3Family", "L{}s_v3", 8, "8 16 32 48 64 80"),
    ("standardLASv3Family", "L{}as_v3", 8, "8 16 32 48 64 80"),
)
"""Series whose memory grows with the cores."""

IRREGULAR = (
    # family, name, cores, GPUs, GiB of memory
    *((family, f"D{s}{number}_v2", cores, 0, memory)
      for s, family in (("", "standardDv2Family"), ("S", "standardDSv2Family"))
      for number, cores, memory in ((1, 1, 3.5), (2, 2, 7), (3, 4, 14), (4, 8, 28), (5, 16, 56), (11, 2, 14), (12, 4, 28), (13, 8, 56),
                                    (14, 16, 112), (15, 20, 140))),
    *((family, f"E64{letters}", 64, 0, 432)
      for family, letters in (("standardEv3Family", "_v3"), ("standardESv3Family", "s_v3"))),
    *((family, f"E64{letters}", 64, 0, 504)
      for family, letters in (("standardEv4Family", "_v4"), ("standardESv4Family", "s_v4"), ("standardEDv4Family", "d_v4"),
                              ("standardEDSv4Family", "ds_v4"))),
    *((family, f"E96{letters}", 96, 0, 672)
      for family, letters in (("standardEAv4Family", "a_v4"), ("standardEASv4Family", "as_v4"), ("standardEv5Family", "_v5"),
                              ("standardESv5Family", "s_v5"), ("standardEDv5Family", "d_v5"), ("standardEDSv5Family", "ds_v5"),
                              ("standardEASv5Family", "as_v5"), ("standardEADSv5Family", "ads_v5"))),
    ("standardMSFamily", "M8ms", 8, 0, 218.75), ("standardMSFamily", "M16ms", 16, 0, 437.5), ("standardMSFamily", "M32ms", 32, 0, 875),
    ("standardMSFamily", "M32ls", 32, 0, 256), ("standardMSFamily", "M32ts", 32, 0, 192), ("standardMSFamily", "M64", 64, 0, 1024),
    ("standardMSFamily", "M64s", 64, 0, 1024), ("standardMSFamily", "M64ls", 64, 0, 512), ("standardMSFamily", "M64m", 64, 0, 1792),
    ("standardMSFamily", "M64ms", 64, 0, 1792), ("standardMSFamily", "M128", 128, 0, 2048), ("standardMSFamily", "M128s", 128, 0, 2048),
    ("standardMSFamily", "M128m", 128, 0, 3892), ("standardMSFamily", "M128ms", 128, 0, 3892),
    ("standardHFamily", "H8", 8, 0, 56), ("standardHFamily", "H16", 16, 0, 112), ("standardHFamily", "H8m", 8, 0, 112),
    ("standardHFamily", "H16m", 16, 0, 224), ("standardHFamily", "H16r", 16, 0, 112), ("standardHFamily", "H16mr", 16, 0, 224),
    ("standardHBSFamily", "HB60rs", 60, 0, 228), ("standardHCSFamily", "HC44rs", 44, 0, 352),
    ("standardHBrsv2Family", "HB120rs_v2", 120, 0, 456),
    *(("standardHBv3Family", f"HB120{limit}rs_v3", 120, 0, 448) for limit in ("", "-16", "-32", "-64", "-96")),
    *(("standardHBv4Family", f"HB176{limit}rs_v4", 176, 0, 768) for limit in ("", "-24", "-48", "-96", "-144")),
    ("standardNCFamily", "NC6", 6, 1, 56),
    ("standardNCFamily", "NC12", 12, 2, 112),
    ("standardNCFamily", "NC24", 24, 4, 224),
    ("standardNCFamily", "NC24r", 24, 4, 224),
    ("standardNCSv3Family", "NC6s_v3", 6, 1, 112),
    ("standardNCSv3Family", "NC12s_v3", 12, 2, 224),
    ("standardNCSv3Family", "NC24s_v3", 24, 4, 448),
    ("standardNCSv3Family", "NC24rs_v3", 24, 4, 448),
    ("Standard NCASv3_T4 Family", "NC4as_T4_v3", 4, 1, 28),
    ("Standard NCASv3_T4 Family", "NC8as_T4_v3", 8, 1, 56),
    ("Standard NCASv3_T4 Family", "NC16as_T4_v3", 16, 1, 110),
    ("Standard NCASv3_T4 Family", "NC64as_T4_v3", 64, 4, 440),
    ("standardNDSv2Family", "ND40rs_v2", 40, 8, 672),
    ("StandardNCADSA100v4Family", "NC24ads_A100_v4", 24, 1, 220),
    ("StandardNCADSA100v4Family", "NC48ads_A100_v4", 48, 2, 440),
    ("StandardNCADSA100v4Family", "NC96ads_A100_v4", 96, 4, 880),
    ("Standard NDASv4_A100 Family", "ND96asr_v4", 96, 8, 900),
    ("Standard NDAMSv4_A100Family", "ND96amsr_A100_v4", 96, 8, 1900),
    ("StandardNCadsH100v5Family", "NC40ads_H100_v5", 40, 1, 320),
    ("StandardNCadsH100v5Family", "NC80adis_H100_v5", 80, 2, 640),
    ("standardNDSH100v5Family", "ND96isr_H100_v5", 96, 8, 1900),
    ("standardNCSv2Family", "NC6s_v2", 6, 1, 112),
    ("standardNCSv2Family", "NC12s_v2", 12, 2, 224),
    ("standardNCSv2Family", "NC24s_v2", 24, 4, 448),
    ("standardNCSv2Family", "NC24rs_v2", 24, 4, 448),
    ("standardNDSFamily", "ND6s", 6, 1, 112),
    ("standardNDSFamily", "ND12s", 12, 2, 224),
    ("standardNDSFamily", "ND24s", 24, 4, 448),
    ("standardNDSFamily", "ND24rs", 24, 4, 448),
    ("standardNVFamily", "NV6", 6, 1, 56),
    ("standardNVFamily", "NV12", 12, 2, 112),
    ("standardNVFamily", "NV24", 24, 4, 224),
    ("standardNVSv3Family", "NV12s_v3", 12, 1, 112),
    ("standardNVSv3Family", "NV24s_v3", 24, 2, 224),
    ("standardNVSv3Family", "NV48s_v3", 48, 4, 448),
    ("StandardNVADSA10v5Family", "NV6ads_A10_v5", 6, 1, 55),
    ("StandardNVADSA10v5Family", "NV12ads_A10_v5", 12, 1, 110),
    ("StandardNVADSA10v5Family", "NV18ads_A10_v5", 18, 1, 220),
    ("StandardNVADSA10v5Family", "NV36ads_A10_v5", 36, 1, 440),
    ("StandardNVADSA10v5Family", "NV36adms_A10_v5", 36, 1, 880),
    ("StandardNVADSA10v5Family", "NV72ads_A10_v5", 72, 2, 880),
    ("standardNDISRH200V5Family", "ND96isr_H200_v5", 96, 8, 1850),
)  # fmt: skip
"""Series whose sizes follow no rule, and those with GPUs."""


def _list_sizes() -> Iterator[Size]:
    for family, name, per_core, numbers in SERIES:
        for cores in map(int, numbers.split()):
            yield Size(f"Standard_{name.format(cores)}", family, cores, 0, cores * per_core)
    for family, name, cores, gpus, memory in IRREGULAR:
        yield Size(f"Standard_{name}", family, cores, gpus, memory)


SIZES = tuple(_list_sizes())

_BY_NAME = {size.name.lower(): size for size in SIZES}


def find(name: str) -> Size | None:
    """Return the size with this name, or None; names ignore case."""
    return _BY_NAME.get(name.lower())
