"""How much faster does speculative decoding make this model, on this accelerator, for this load?

    import specsim
    system = specsim.system("h200-sxm", engine="cuda-graphs", precision="bf16")
    target, draft = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
    specsim.predict(target, specsim.DraftModel(draft), system, gamma=range(9), alpha=0.8).speedup

`gamma` is the number of tokens drafted per cycle. `alpha` is the probability that the target
accepts a drafted token, if it accepted all drafted tokens before it. Needs NumPy alone. The package
`reference` is the decoder that measures what is predicted here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specsim.architecture import Architecture, model
    from specsim.checks import SpecsimError
    from specsim.drafting import DraftModel, method
    from specsim.hardware import System, system
    from specsim.prediction import Prediction
    from specsim.speculation import predict

__version__ = "0.1.0"
__all__ = [
    "Architecture",
    "DraftModel",
    "Prediction",
    "SpecsimError",
    "System",
    "method",
    "model",
    "predict",
    "system",
]

# Imported when they are asked for, so that the command line can answer an interrupt from its first
# moment on: NumPy alone takes longer to import than all before it.
_WHERE = {
    "Architecture": "architecture",
    "DraftModel": "drafting",
    "Prediction": "prediction",
    "SpecsimError": "checks",
    "System": "hardware",
    "method": "drafting",
    "model": "architecture",
    "predict": "speculation",
    "system": "hardware",
}
_PACKAGES = (
    "acceptance", "catalog", "cost", "evidence", "operators", "planning", "scenario", "serving",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """A public name, or a package: `specsim.catalog` needs no import of its own."""
    if name in _WHERE:
        value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    elif name in _PACKAGES or name in _WHERE.values():
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES, *_WHERE.values()})
