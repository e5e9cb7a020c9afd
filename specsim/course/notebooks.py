"""What the notebooks share: fast runs, what this computer can measure with, and text with computed
numbers."""

import os
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


def here() -> Here:
    """Look for PyTorch and a GPU. Without PyTorch the notebooks predict but do not measure."""
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
