"""The model that a name means: a preset, or what a file says."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from specsim import catalog
from specsim.architecture.config import from_config
from specsim.architecture.gguf import (
    TOLERANCE,
    Header,
    config_of,
    header_of_metadata,
    read_header,
    storage_fields,
    storage_of_type,
)
from specsim.architecture.heads import refuse_head
from specsim.architecture.paths import file_of, named_by, path_of, read_config
from specsim.architecture.quantization import BESIDE
from specsim.architecture.shape import Architecture
from specsim.architecture.storage import Storage
from specsim.checks import SpecsimError
from specsim.checks.files import read_json


def model(name: str | Path, like: str | None = None) -> Architecture:
    """The architecture called `name`: a preset, a `config.json` or `params.json`, a GGUF file, or
    the folder of a checkpoint that holds one of them.

    A hub id (`Qwen/Qwen3-8B`) means the preset, unless there is such a folder here. `like` is the
    `model_type` as which a `config.json` of an unknown one is read (`from_config`). Raises
    SpecsimError with the nearest preset names when there is none such, and for a draft head.
    """
    if (path := path_of(name)) is not None:
        file = file_of(path)
        if file.suffix.lower() == ".gguf":
            return from_header(read_header(file), file.stem)
        config, called = read_config(file), named_by(file)
        if (header := header_of_metadata(config, file.stem)) is not None:
            return from_header(header, file.stem)
        refuse_head(config, called)
        beside = file.with_name(BESIDE) if file.name == "config.json" else None
        written = read_json(beside) if beside is not None and beside.is_file() else None
        return from_config(config, called, written, like)
    return _preset(catalog.resolve("models", str(name)))


@cache
def _preset(row: str) -> Architecture:
    """The model of a row, read once: it cannot be changed, and a list of formats takes its time."""
    found = catalog.lookup("models", row)
    return replace(from_config(found["config"], row), tokenizer=found["tokenizer"])


def from_header(header: Header, name: str) -> Architecture:
    """The Architecture that the header of a GGUF file describes, with the formats of its tensors,
    or of a header without any, with those of its file type.

    Raises SpecsimError where the tensors hold other parameters than the fields describe: then the
    model has parts that are not known here.
    """
    shape = from_config(config_of(header), name)
    if not header.tensors:
        stored = storage_of_type(header.pairs.get("general.file_type"), shape)
        return replace(shape, stored=stored)
    held, described = header.parameters, (shape.parameters, shape.parameters + shape.mtp_parameters)
    if not any(abs(held - each) <= TOLERANCE * each for each in described):
        raise SpecsimError(
            f"{name}: its tensors hold {held:,} parameters, and its fields describe "
            f"{described[0]:,}: it has parts that are not priced"
        )
    nearest, main, formats = storage_fields(header)
    return replace(shape, stored=Storage(main, "GGUF", nearest, formats))
