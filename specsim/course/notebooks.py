"""What the notebooks share: fast runs, what this computer can measure with, and text with computed
numbers."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from specsim.checks import SpecsimError
from specsim.checks.extras import needed

T = TypeVar("T")


def fast() -> bool:
    """Whether SPECSIM_FAST asks for fewer repetitions of the same cells."""
    return os.environ.get("SPECSIM_FAST", "") not in ("", "0")


def effort(full: T, quick: T) -> T:
    """`full`, or `quick` if SPECSIM_FAST is set: a number of repetitions or prompts, or a size."""
    return quick if fast() else full


def say(text: str) -> None:
    """Show Markdown. Notebooks use it for sentences with computed numbers."""
    with needed("showing text in a notebook"):
        from IPython.display import Markdown, display

    display(Markdown(text))


def show(figure: Any) -> None:
    """Show a figure in the middle of a cell. At the end of a cell its name is enough."""
    with needed("showing a figure in a notebook"):
        from IPython.display import display

    display(figure)


def live(make: Callable[[], Any]) -> None:
    """Show what `make` returns, a figure with controls. Without ipywidgets say what is missing."""
    try:
        show(make())
    except SpecsimError as missing:
        say(f"*Not live here: {missing}.*")


@dataclass(frozen=True, slots=True)
class Here:
    """What this computer can measure with. `sentence` says it, and what is skipped."""

    torch: bool
    gpu: bool
    sentence: str


def has_torch() -> bool:
    """Whether PyTorch can be imported."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


MEASURED = re.compile(r"%%measured(?: else: (?P<said>.+))?")
SKIPPED = "*Skipped: this cell measures, and PyTorch is not installed.*"


def measured_cell(lines: list[str]) -> list[str]:
    """The lines that a notebook runs of a cell: one that begins with `%%measured` runs without that
    line. Where PyTorch is not installed the cell only says that it is skipped, or, if it begins
    with `%%measured else: some Markdown`, that Markdown."""
    begins = MEASURED.fullmatch(lines[0].strip()) if lines else None
    if begins is None:
        return lines
    if has_torch():
        return lines[1:]
    return [f"import specsim.course; specsim.course.say({begins['said'] or SKIPPED!r})\n"]


def know_measured_cells() -> None:
    """Make `%%measured` known to the notebook that runs, once."""
    ipython = sys.modules.get("IPython")  # not imported: no notebook is running
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        known = shell.input_transformers_cleanup
        known[:] = [each for each in known if getattr(each, "__name__", "") != "measured_cell"]
        known.append(measured_cell)


def here() -> Here:
    """Look for PyTorch and a GPU. Without PyTorch the notebooks predict but do not measure: after
    this call a cell that begins with `%%measured` says then that it is skipped, or what follows
    `else:` on that line."""
    know_measured_cells()
    try:
        import torch
    except ModuleNotFoundError:
        return Here(
            False,
            False,
            "PyTorch is not installed here. The notebook predicts everything, and each cell that "
            "would measure says that it is skipped (`pip install 'specsim-llm[reference]'`).",
        )
    version: Any = torch.__version__
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return Here(True, True, f"Measured on {name}, with PyTorch {version}.")
    return Here(
        True,
        False,
        f"Measured on this machine's CPU, with {torch.get_num_threads()} threads and PyTorch "
        f"{version}. There is no CUDA device, so nothing is measured on a GPU.",
    )
