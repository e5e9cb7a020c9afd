"""A machine as software drives it: Accelerator (datasheet) x Engine (what arrives of it) = System.

The datasheet says what the chip could do, the engine which fraction of it arrives and what every
layer, pass and cycle costs on top. Never one "utilisation" for everything: bandwidth, arithmetic
and attention have an efficiency each, and the overheads are seconds, not per cent.
"""

from specsim.hardware.accelerators import Accelerator, accelerator
from specsim.hardware.efficiency import EfficiencyTable
from specsim.hardware.engines import CEILINGS, Engine, catalog_engine, engine_row, entry
from specsim.hardware.systems import CACHE_SPEEDUP, System, system

__all__ = [
    "CACHE_SPEEDUP",
    "CEILINGS",
    "Accelerator",
    "EfficiencyTable",
    "Engine",
    "System",
    "accelerator",
    "catalog_engine",
    "engine_row",
    "entry",
    "system",
]
