"""Huge pages for weights and caches, where Linux gives them to those who ask.

A processor looks the address of every page up. Weights of a gigabyte lie in 262,144 pages of 4 kB,
or in 512 of 2 MB. Most systems are set to `madvise`: a program must ask. PyTorch does so for every
tensor from 2 MB on if VARIABLE is 1 when it first allocates memory, so it has to be set before, by
`ask`. What was allocated earlier stays as it is. `bench/memory_limit.py` measures the gain.
"""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "THP_MEM_ALLOC_ENABLE"  # of PyTorch; 0 in the environment leaves pages as they are
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MAPS = Path("/proc/self/smaps_rollup")


def ask(environment: MutableMapping[str, str] = os.environ, setting: Path = SETTING) -> bool:
    """Let PyTorch ask for huge pages, where the system's `setting` allows that and the
    `environment` does not say otherwise; whether it will."""
    try:
        is_given = re.search(r"\[(madvise|always)\]", setting.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        return False  # not Linux, or a system without huge pages
    return bool(is_given) and environment.setdefault(VARIABLE, "1") == "1"


def held_bytes(maps: Path = MAPS) -> int | None:
    """Bytes of this process that lie in huge pages; None where the system does not say."""
    try:
        found = re.search(r"AnonHugePages:\s+(\d+) kB", maps.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    return 1024 * int(found[1]) if found else None
