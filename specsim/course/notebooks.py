"""What the notebooks share: how much effort is asked for, what is here to measure with, and prose
with computed numbers in it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from specsim.checks import SpecsimError

T = TypeVar("T")


def fast() -> bool:
    """Whether SPECSIM_FAST asks for the same cells with fewer repetitions."""
    return os.environ.get("SPECSIM_FAST", "") not in ("", "0")


def effort(full: T, quick: T) -> T:
    """`full`, or `quick` where SPECSIM_FAST is set: repetitions, prompts, sizes."""
    return quick if fast() else full


def say(text: str) -> None:
    """Show Markdown: how a notebook says a number, so that it is computed where it is read."""
    from IPython.display import Markdown, display

    display(Markdown(text))


def show(figure: Any) -> None:
    """Show a figure in the middle of a cell; at the end of one its name is enough."""
    from IPython.display import display

    display(figure)


def live(make: Callable[[], Any]) -> None:
    """Show what `make` returns, a picture with controls; without ipywidgets say what it needs."""
    try:
        show(make())
    except SpecsimError as missing:
        say(f"*Not live here: {missing}.*")


@dataclass(frozen=True, slots=True)
class Here:
    """What this machine can measure with; `sentence` says it, and what is skipped."""

    torch: bool
    gpu: bool
    sentence: str


def here() -> Here:
    """What is installed and plugged in. Without torch the notebooks predict and measure nothing."""
    try:
        import torch
    except ModuleNotFoundError:
        return Here(
            False,
            False,
            "PyTorch is not installed here: everything is predicted, and the cells that measure "
            "say that they skip it (`pip install 'specsim-llm[reference]'` brings it).",
        )
    version: Any = torch.__version__
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return Here(True, True, f"Measured on {name}, with PyTorch {version}.")
    return Here(
        True,
        False,
        f"Measured on this machine's CPU, with {torch.get_num_threads()} threads and PyTorch "
        f"{version}; there is no CUDA device, so nothing is measured on a GPU.",
    )
