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
    "serve": ("starlette", "uvicorn", "httptools", "jinja2"),
    "hub": ("huggingface_hub",),
    "dask": ("distributed", "dask"),
}  # fmt: skip


class MissingExtra(SpecsimError, ImportError):
    """An extra that is not installed, in one line: what needs it, and how it is installed."""


def missing_extra(what: str, module: str | None, extra: str | None = None) -> MissingExtra | None:
    """The error for a `module` that is absent; None for one that no extra brings. `extra` is what
    to install, where that is not the one that brings this module alone."""
    package = (module or "").split(".")[0]
    for brings, modules in EXTRAS.items():
        if package in modules:
            install = f"pip install 'specsim-llm[{extra or brings}]'"
            error = MissingExtra(f"{what} needs {package}: {install}")
            error.name = package
            return error
    return None


@contextmanager
def needed(what: str, extra: str | None = None) -> Iterator[None]:
    """Around imports, and around what imports later: raises MissingExtra for a module of an extra
    that is not installed. `what` begins the sentence: "the explorer". `extra` brings all that it
    needs, where that is more than the missing module's own."""
    try:
        yield
    except MissingExtra as error:
        found = missing_extra(what, error.name, extra) if extra else error
    except ModuleNotFoundError as error:
        found = missing_extra(what, error.name, extra)
        if found is None:
            raise
    else:
        return
    assert found is not None
    if sys.argv[:1] == ["-m"]:  # `python -m` imports the package of a program: nobody catches it
        print(f"specsim: {found}", file=sys.stderr)
        raise SystemExit(2)
    raise found from None


def require_modules(what: str, *modules: str, extra: str | None = None) -> None:
    """Raises MissingExtra, as `needed`, unless all `modules` can be found; imports none of them."""
    with needed(what, extra):
        for module in modules:
            if find_spec(module) is None:
                raise ModuleNotFoundError(name=module)
