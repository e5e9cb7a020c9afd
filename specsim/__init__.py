"""How much faster does speculative decoding make this model, on this accelerator, for this load?

    import specsim
    system = specsim.system("h200-sxm", engine="cuda-graphs", precision="bf16")
    target, draft = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
    specsim.predict(target, specsim.DraftModel(draft), system, gamma=range(9), alpha=0.8).speedup

`gamma` is the number of tokens drafted per cycle. `alpha` is the probability that the target
accepts a drafted token, if it accepted all drafted tokens before it. Needs NumPy alone. The package
`reference` is the decoder that measures what is predicted here.
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
