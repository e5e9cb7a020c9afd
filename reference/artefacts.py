"""Compiled stages kept on disk: the next process loads them instead of compiling them again.

`torch.compile` works anew in every process, and importing the compiler alone takes seconds. Here a
stage of a cycle is compiled once, into a shared library (see `tracing`). Loading it takes
milliseconds and imports no compiler. A library holds no weights: other weights of the same shapes
run the same one. What it does depend on is its key: shapes, settings, this package's code, torch,
the processor, the number of threads.

Loading a library executes it. So a library is loaded only from folders and files that belong to
this user and that nobody else may write to, and only with the checksum that its `key.json` says.
A library with another key is compiled again, never loaded; the note says what differs.
"""

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch

from reference.cycle import Cycle
from reference.kept import PLACE, cache_folder
from reference.loops import lay_in_lanes
from reference.machine import cpu_name
from reference.places import held_by, leaves, plain
from reference.tracing import (
    FLOWS,
    UNREAD,
    Unusable,
    compile_library,
    flow_of,
    named_tensors,
    refilled,
    trace,
    warm_up,
)
from reference.transformer import Transformer
from specsim.checks import SpecsimError
from specsim.checks.files import read_json, write_json

KEY = "key.json"
CODE = ("reference", "specsim/architecture")  # folders whose code the stages run
NO_STAGE = {"lab", "serving"}  # folders in them of which a stage runs only what its cycle holds

Stages = list[Callable[[], None]]


class Found(NamedTuple):
    """Compiled stages, None where there are none; and a sentence on where they come from."""

    stages: Stages | None
    note: str
    is_new: bool = False  # compiled just now


# -------------------------------------------------------------------------- what a user calls


def stages_for(cycle: Cycle, may_compile: bool) -> Found:
    """The compiled stages of `cycle`, for its present gamma and window: loaded, or with
    `may_compile` compiled and kept. `begin` has been called; every sequence is idle."""
    try:
        folder = trusted(folder_of(cycle), make=may_compile) / name_of(cycle)
        if may_compile or os.path.isdir(folder):
            lay_in_lanes(held_by(cycle))
        warm_up(cycle)
        key = key_of(cycle)
    except Unusable as error:
        return Found(None, f"no compiled stages are kept: {error}")
    try:
        return Found(load(cycle, folder, key), f"compiled stages loaded from {folder}")
    except Unusable as error:
        if not may_compile:
            return Found(None, f"eager: {error} (mode 'compiled', --compile, compiles)")
        reason = str(error)
    try:
        build(cycle, folder, key)
        note = f"stages compiled into {folder}: {reason}"
        return Found(load(cycle, folder, key), note, is_new=True)
    except Unusable as error:
        return Found(None, f"no compiled stages are kept: {error}")


def are_kept(*kind: Any) -> bool:
    """Whether stages for this kind of run on a CPU are kept on disk, whatever they are worth; the
    arguments are those of `kind_name`."""
    place = cache_folder() if kind[0].device.type == "cpu" else None
    return place is not None and os.path.isdir(place / kind_name(*kind))


def is_kept(cycle: Cycle) -> bool:
    """Whether stages for the present gamma and window of `cycle` are kept, whatever they are
    worth."""
    kind = cycle.target, cycle.drafter, len(cycle.sequences.lengths), cycle.settings
    return are_kept(*kind) and os.path.isdir(folder_of(cycle) / name_of(cycle))


# ------------------------------------------------------------------------------------ where


def kind_name(target, drafter, batch: int, settings) -> str:
    """A short name for what the user asks for: models, drafter, batch and settings."""
    draft = getattr(drafter, "model", None)
    asked = [
        [str(model.architecture), str(model.dtype), model.precision]
        for model in (target, draft)
        if isinstance(model, Transformer)
    ]
    asked += [type(drafter).__qualname__, drafter.gamma, batch, torch.get_num_threads()]
    asked += [plain(getattr(settings, name)) for name in settings.__slots__ if name != "mode"]
    digest = hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()[:12]
    kind = f"{target.architecture.name}-{type(drafter).__name__}-{drafter.gamma}"
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in kind)[:80] + "-" + digest


def folder_of(cycle: Cycle) -> Path:
    """The folder of all stages of this kind of run; Unusable if none is to be used."""
    place = cache_folder()
    if place is None:
        raise Unusable(f"{PLACE} is off, or there is no folder for caches")
    batch = len(cycle.sequences.lengths)
    return place / kind_name(cycle.target, cycle.drafter, batch, cycle.settings)


def name_of(cycle: Cycle) -> str:
    """The folder of one gamma, capacity and window."""
    slots = cycle.cache.capacity
    return f"gamma-{cycle.gamma}-slots-{slots}-window-{cycle.sequences.window}"


def trusted(folder: Path, make: bool = False) -> Path:
    """`folder`, made if wanted. Unusable unless it and the folder of the cache belong to this user
    and nobody else may write to them."""
    try:
        if make:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        for each in (folder.parent, folder):
            require_own(each)
        if make and not os.access(folder, os.W_OK):
            raise Unusable(f"{folder} cannot be written")
    except OSError as error:
        raise Unusable(f"{folder}: {error.strerror}") from None
    return folder


def require_own(path: Path) -> None:
    """Unusable unless `path`, no link, belongs to this user and nobody else may write to it."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise Unusable(f"{path} is a link")
    if found.st_uid != os.getuid():
        raise Unusable(f"{path} belongs to another user, and loading it would execute it")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unusable(
            f"{path} may be written by other users (chmod go-w), and loading executes it"
        )


# -------------------------------------------------------------------------------------- key


def key_of(cycle: Cycle) -> dict[str, Any]:
    """All that the compiled stages of `cycle` depend on; what is equal may be loaded."""
    held = dict(leaves(cycle, skip=UNREAD))
    return {
        "torch": f"{torch.__version__} {torch.version.git_version}",
        "code": code_digest(frozenset(modules_of(cycle))),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "cycle": {place: plain(thing) for place, thing in held.items()},
    }


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """What the first difference of two keys is, in words; None if they are equal."""
    for name, value in wanted.items():
        before = found.get(name)
        if before == value:
            continue
        if name == "cycle" and isinstance(before, dict):
            place = next(p for p in {**value, **before} if value.get(p) != before.get(p))
            return f"{place} is {value.get(place)}, and was {before.get(place)}"
        if name == "code":
            return "the code of this package has changed"
        return f"{name} is {value}, and was {before}"
    return None


def modules_of(cycle: Cycle) -> Iterator[str]:
    """The names of the modules outside torch that define the types of what `cycle` holds."""
    for _, thing in leaves(cycle, skip=UNREAD):
        if isinstance(thing, type) and not thing.__module__.startswith(("torch.", "builtins")):
            yield thing.__module__


@cache
def code_digest(modules: frozenset[str]) -> str:
    """A checksum of the source of this package and of these modules."""
    root, files = Path(__file__).parents[1], set()
    for folder in CODE:
        files |= {p for p in (root / folder).rglob("*.py") if not NO_STAGE & {*p.parts}}
    for name in modules:
        source = getattr(sys.modules.get(name), "__file__", None)
        if source is None:
            raise Unusable(f"the source of {name}, whose types are used, is not in a file")
        files.add(Path(source))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@cache
def processor() -> str:
    """The processor's name, torch's name for its instructions, and a checksum of its own list."""
    flags = ""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    listed = hashlib.sha256(flags.encode()).hexdigest()[:8]
    return f"{cpu_name()} ({torch.backends.cpu.get_cpu_capability()}, {listed})"


# ------------------------------------------------------------------------ compiling, loading


def build(cycle: Cycle, folder: Path, key: dict[str, Any]) -> None:
    """Compile the stages into `folder`, whole or not at all. Unusable if that fails."""
    try:
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise Unusable(f"{folder.parent} cannot be written: {error.strerror}") from None
    try:
        libraries = {}
        for stage in cycle.stages:
            module, places = trace(cycle, stage)
            held = named_tensors(cycle)
            name = library_of(new, stage.__name__, key).stem
            file = compile_library(module, [held[place] for place in places], new, name)
            libraries[stage.__name__] = {"inputs": places, "sha256": checksum(file)}
        write_json(new / KEY, {"key": key, "libraries": libraries})
        for file in new.iterdir():
            file.chmod(0o600)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except Exception as error:  # the compiler raises anything; without it the stages still run
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Unusable(f"compiling fails: {reason[0]:.200}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def library_of(folder: Path, stage: str, key: dict[str, Any]) -> Path:
    """The library of a stage. Its name tells the key, because a process that has loaded a file
    of a name gets the same library under that name again, whatever the file is by then."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    return folder / f"{stage}-{digest}.so"


def open_library(file: Path):
    """A library as an object that runs it."""
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(file), 1)


def checksum(library: Path) -> str:
    """Of a library and of the file beside it that names operators."""
    files = [file for file in (library, library.with_suffix(".json")) if file.exists()]
    return hashlib.sha256(
        b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)
    ).hexdigest()


def load(cycle: Cycle, folder: Path, key: dict[str, Any]) -> Stages:
    """The stages in `folder`, if they were compiled for `key`. Unusable, with the reason, else."""
    if not os.path.isdir(folder):
        raise Unusable(f"nothing is compiled yet for {folder.name}")
    try:
        require_own(folder)
        for file in folder.iterdir():
            require_own(file)
        said = read_json(folder / KEY)
        differs = difference(said["key"], key)
        if differs:
            raise Unusable(f"what is kept does not fit: {differs}")
        libraries = said["libraries"]
        files = {stage: library_of(folder, stage.__name__, key) for stage in cycle.stages}
        for stage, file in files.items():
            if checksum(file) != libraries[stage.__name__]["sha256"]:
                raise Unusable(f"{file} is damaged: its checksum is another")
        stages = [
            loaded_stage(cycle, stage, file, libraries[stage.__name__]["inputs"])
            for stage, file in files.items()
        ]
        for stage in stages:  # once, while every sequence is idle: a library that fails is not used
            stage()
        return stages
    except (OSError, KeyError, TypeError, AttributeError, RuntimeError, SpecsimError) as error:
        raise Unusable(f"what is kept in {folder} is damaged: {error}") from None


def loaded_stage(
    cycle: Cycle, stage: Callable, file: Path, places: list[str]
) -> Callable[[], None]:
    """A stage that runs its library, `file`, on the cycle's tensors in `places`."""
    library, flow = open_library(file), flow_of(stage)
    held = named_tensors(cycle)
    tensors = [held[place] for place in places]
    flowing = [
        (index, attrgetter(place))
        for index, place in enumerate(places)
        if place.startswith(tuple(f"{each}." for each in FLOWS.values()))
    ]
    example = getattr(cycle, flow) if flow else None

    def run() -> None:
        for index, find in flowing:
            tensors[index] = find(cycle)
        made = iter(library.run(tensors))
        if flow:
            setattr(cycle, flow, refilled(example, made))

    return run
