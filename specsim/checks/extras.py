"""What is not installed is said with the extra that brings it: NumPy alone is always there."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from specsim.checks.values import SpecsimError

EXTRAS = {  # the modules that are imported, by the extra that installs them
    "figures": ("matplotlib", "mpl_toolkits", "PIL", "contourpy"),
    "reference": ("torch", "safetensors", "tokenizers", "tqdm", "reference"),
    "notebooks": ("ipywidgets", "IPython", "ipykernel", "voila", "traitlets", "jupyter_server",
                  "jupyter_client", "tornado"),
    "hub": ("huggingface_hub",),
}  # fmt: skip


class MissingExtra(SpecsimError, ImportError):
    """An extra that is not installed, in one line: what needs it, and how it is installed."""


def missing_extra(what: str, module: str | None) -> MissingExtra | None:
    """The error for a `module` that is absent; None for one that no extra brings."""
    package = (module or "").split(".")[0]
    for extra, modules in EXTRAS.items():
        if package in modules:
            return MissingExtra(f"{what} needs {package}: pip install 'specsim-llm[{extra}]'")
    return None


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Around imports, and around what imports later: raises MissingExtra for a module of an extra
    that is not installed. `what` begins the sentence: "the explorer"."""
    try:
        yield
    except MissingExtra:
        raise
    except ModuleNotFoundError as error:
        found = missing_extra(what, error.name)
        if found is None:
            raise
    except ImportError as error:  # the decoder says so itself
        if "pip install 'specsim-llm[" not in str(error):
            raise
        found = MissingExtra(str(error))
    else:
        return
    if sys.argv[:1] == ["-m"]:  # `python -m` imports the package of a program: nobody catches it
        print(f"specsim: {found}", file=sys.stderr)
        raise SystemExit(2)
    raise found


def require_modules(what: str, *modules: str) -> None:
    """Raises MissingExtra unless all `modules` can be imported; imports none of them."""
    with needed(what):
        for module in modules:
            if find_spec(module) is None:
                raise ModuleNotFoundError(name=module)
