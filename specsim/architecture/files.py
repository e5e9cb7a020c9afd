"""Which file or preset a name means."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from specsim import catalog
from specsim.architecture.config import from_config
from specsim.architecture.shape import Architecture
from specsim.checks import SpecsimError, quoted
from specsim.checks.files import read_json


def read_config(path: Path) -> dict[str, Any]:
    """A `config.json`, or that of a folder, as a dict; SpecsimError if it is absent or not JSON."""
    file = path / "config.json" if path.is_dir() else path
    return read_json(file)


def model(name: str | Path) -> Architecture:
    """The architecture called `name`: a preset, a `config.json`, or the folder of a checkpoint.

    A hub id (`Qwen/Qwen3-8B`) means the preset, unless there is such a folder here. Raises
    SpecsimError with the nearest preset names when there is none such.
    """
    try:
        path = Path(name).expanduser()
        is_path, is_folder = _is_path(path), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a null byte
        raise SpecsimError(f"no model is called {quoted(str(name))}: {error}") from None
    if is_path:
        config = read_config(path)
        if is_folder or path.name == "config.json":  # named by its folder
            return from_config(config, (path if is_folder else path.parent).resolve().name)
        return from_config(config, path.stem)
    row = catalog.resolve("models", str(name))
    found = catalog.lookup("models", row)
    return replace(from_config(found["config"], row), tokenizer=found["tokenizer"])


def _is_path(path: Path) -> bool:
    """Whether a file is meant: a name without a folder, or with one (a hub id), may be a preset."""
    if path.suffix == ".json" or path.is_absolute() or (path / "config.json").is_file():
        return True
    parts = len(path.parts)
    return parts > 2 or (parts == 2 and path.is_dir()) or path.parts[:1] == ("..",)
