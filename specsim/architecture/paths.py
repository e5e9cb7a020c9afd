"""Which file a name means, and what the folder of a checkpoint holds."""

import re
from pathlib import Path
from typing import Any

from specsim import catalog
from specsim.checks import SpecsimError, quoted
from specsim.checks.files import read_json

CONFIGS = ("config.json", "params.json")  # of a folder, in the order in which they are looked for
_LATER_PART = re.compile(r"-(?!00001-)\d{5}-of-\d{5}$")  # of a model that is split over files


def read_config(path: Path) -> dict[str, Any]:
    """A `config.json`, or that of a folder, as a dict; SpecsimError if it is absent or not JSON."""
    return read_json(path / "config.json" if path.is_dir() else path)


def path_of(name: str | Path) -> Path | None:
    """The file or folder that `name` means; None for a name without a folder, or with one (a hub
    id), which may be a preset's. Raises SpecsimError for what no file can be called."""
    try:
        path = Path(name).expanduser()
        is_folder, parts = path.is_dir(), len(path.parts)
        by_name = path.suffix.lower() in (".json", ".gguf") or (is_folder and _holds_model(path))
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a null byte
        raise SpecsimError(f"no model is called {quoted(str(name))}: {error}") from None
    written = str(name)
    by_place = path.is_absolute() or parts > 2 or path.parts[:1] == ("..",)
    if by_name or by_place or written.startswith("./"):
        return path
    folder_meant = parts == 2 or written.endswith("/") or not _is_preset(written)
    return path if is_folder and folder_meant else None


def file_of(path: Path) -> Path:
    """The file that describes a model: `path`, or in a folder its `config.json`, its `params.json`,
    or its one GGUF file (of a split one the first). SpecsimError where it holds none of them."""
    if not path.is_dir():
        return path
    for name in CONFIGS:
        if (path / name).is_file():
            return path / name
    headers = _headers_in(path)
    if len(headers) == 1:
        return headers[0]
    if headers:
        raise SpecsimError(
            f"{path} holds no config.json, and {len(headers)} GGUF files: give one of them"
        )
    raise SpecsimError(f"{path} holds no config.json, no params.json and no GGUF file")


def named_by(path: Path) -> str:
    """What the model in a file is called: as its folder, for a `config.json` or a `params.json`,
    else as the file."""
    folder = path if path.is_dir() else path.parent
    return folder.resolve().name if path.is_dir() or path.name in CONFIGS else path.stem


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CONFIGS) or len(_headers_in(folder)) == 1


def _headers_in(folder: Path) -> list[Path]:
    """The GGUF files of a folder without later parts of a split model and towers for images."""
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() == ".gguf"
        if not _LATER_PART.search(file.stem) and not file.stem.lower().startswith("mmproj")
    ]


def _is_preset(name: str) -> bool:
    try:
        catalog.resolve("models", name)
    except SpecsimError:
        return False
    return True
