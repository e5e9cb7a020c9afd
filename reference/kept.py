"""Where compiled stages are kept; what they are is in `artefacts`."""

import os
from pathlib import Path

PLACE = "SPECSIM_COMPILED"  # the environment variable: a folder, or "off"


def cache_folder() -> Path | None:
    """Where compiled stages are kept: $SPECSIM_COMPILED, by default `specsim/compiled` in the
    user's cache folder; None if it is "off" or there is no such folder."""
    said = os.environ.get(PLACE, "")
    if said == "off" or not hasattr(os, "getuid"):  # without owners nobody can be trusted
        return None
    caches = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if said:
            return Path(said).expanduser()
        base = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
    except RuntimeError:  # no such home
        return None
    return base / "specsim/compiled"


def anything_is_kept() -> bool:
    """Whether there is such a folder: most users have none, and need not ask further."""
    place = cache_folder()
    return place is not None and os.path.isdir(place)  # which raises nothing, whatever the path
