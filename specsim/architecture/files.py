"""Which file or preset a name means."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from specsim import catalog
from specsim.architecture.config import from_config
from specsim.architecture.gguf import (
    FILE_TYPES,
    TOLERANCE,
    Header,
    config_of,
    header_of_metadata,
    read_header,
    storage_fields,
)
from specsim.architecture.quantization import BESIDE
from specsim.architecture.shape import Architecture
from specsim.architecture.storage import Storage
from specsim.checks import SpecsimError, quoted
from specsim.checks.files import read_json


def read_config(path: Path) -> dict[str, Any]:
    """A `config.json`, or that of a folder, as a dict; SpecsimError if it is absent or not JSON."""
    file = path / "config.json" if path.is_dir() else path
    return read_json(file)


def model(name: str | Path, like: str | None = None) -> Architecture:
    """The architecture called `name`: a preset, a `config.json`, the folder of a checkpoint, or a
    GGUF file.

    A hub id (`Qwen/Qwen3-8B`) means the preset, unless there is such a folder here. `like` is the
    `model_type` as which a `config.json` of an unknown one is read (`from_config`). Raises
    SpecsimError with the nearest preset names when there is none such.
    """
    if (path := path_of(name)) is not None:
        if path.suffix.lower() == ".gguf":
            return from_header(read_header(path), path.stem)
        is_folder = path.is_dir()
        config, folder = read_config(path), path if is_folder else path.parent
        if (header := header_of_metadata(config, path.stem)) is not None:
            return from_header(header, path.stem)
        beside = folder / BESIDE if is_folder or path.name == "config.json" else None
        written = read_json(beside) if beside is not None and beside.is_file() else None
        return from_config(config, named_by(path), written, like)
    return _preset(catalog.resolve("models", str(name)))


@cache
def _preset(row: str) -> Architecture:
    """The model of a row, read once: it cannot be changed, and a list of formats takes its time."""
    found = catalog.lookup("models", row)
    return replace(from_config(found["config"], row), tokenizer=found["tokenizer"])


def from_header(header: Header, name: str) -> Architecture:
    """The Architecture that the header of a GGUF file describes, with the formats of its tensors.

    Raises SpecsimError where the tensors hold other parameters than the fields describe: then the
    model has parts that are not known here.
    """
    shape = from_config(config_of(header), name)
    if not header.tensors:
        named = FILE_TYPES.get(header.pairs.get("general.file_type", -1))
        stored = Storage("general.file_type", "GGUF", named) if named else None
        return replace(shape, stored=stored)
    held, described = header.parameters, (shape.parameters, shape.parameters + shape.mtp_parameters)
    if not any(abs(held - each) <= TOLERANCE * each for each in described):
        raise SpecsimError(
            f"{name}: its tensors hold {held:,} parameters, and its fields describe "
            f"{described[0]:,}: it has parts that are not priced"
        )
    nearest, main, formats = storage_fields(header)
    return replace(shape, stored=Storage(main, "GGUF", nearest, formats))


def named_by(path: Path) -> str:
    """What the model in a file is called: as its folder, for a `config.json`, else as the file."""
    folder = path if path.is_dir() else path.parent
    of_folder = path.is_dir() or path.name == "config.json"
    return folder.resolve().name if of_folder else path.stem


def path_of(name: str | Path) -> Path | None:
    """The file or folder that `name` means; None for a name without a folder, or with one (a hub
    id), which may be a preset's. Raises SpecsimError for what no file can be called."""
    try:
        path = Path(name).expanduser()
        is_folder, parts = path.is_dir(), len(path.parts)
        by_name = path.suffix.lower() in (".json", ".gguf") or (path / "config.json").is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a null byte
        raise SpecsimError(f"no model is called {quoted(str(name))}: {error}") from None
    by_place = path.is_absolute() or parts > 2 or path.parts[:1] == ("..",)
    return path if by_name or by_place or (parts == 2 and is_folder) else None
