"""What a pass runs on: Accelerator (its datasheet) x Engine (what software reaches of it) = System.

The datasheet says what the accelerator could do; the engine says which fraction of that is reached
and what every layer, pass and cycle costs on top. There is no single "utilisation": bandwidth,
arithmetic and attention have an efficiency each, and overheads are seconds.
"""

from specsim.hardware.accelerators import (
    PCIE_BYTES_PER_S,
    PCIE_LATENCY_S,
    Accelerator,
    accelerator,
)
from specsim.hardware.efficiency import AttentionTable, EfficiencyTable
from specsim.hardware.engines import (
    CEILINGS,
    Engine,
    FormatConstants,
    catalog_engine,
    emptied,
    engine_row,
    entry,
)
from specsim.hardware.offloading import DEFAULT_HOST, OFFLOADING, host_named
from specsim.hardware.systems import CACHE_SPEEDUP, System, system

__all__ = [
    "CACHE_SPEEDUP",
    "CEILINGS",
    "DEFAULT_HOST",
    "OFFLOADING",
    "PCIE_BYTES_PER_S",
    "PCIE_LATENCY_S",
    "Accelerator",
    "AttentionTable",
    "EfficiencyTable",
    "Engine",
    "FormatConstants",
    "System",
    "accelerator",
    "catalog_engine",
    "emptied",
    "engine_row",
    "entry",
    "host_named",
    "system",
]
