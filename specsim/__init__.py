"""How much faster does speculative decoding make this model, on this GPU, for this traffic?

    import specsim
    system = specsim.system("h200-sxm", engine="cuda-graphs", precision="bf16")
    target, draft = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
    specsim.predict(target, specsim.DraftModel(draft), system, gamma=range(9), alpha=0.8).speedup

Needs NumPy alone. The decoder that measures what is predicted here is the package `reference`.
"""

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
