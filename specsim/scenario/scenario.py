"""A `Scenario`: names and numbers by the names of the command line's options, and their limits."""

from dataclasses import dataclass
from typing import Any

from specsim.checks import as_survival, one_count, within
from specsim.checks.limits import LIMITS, require_limit
from specsim.operators import AUTO

WHOLE_NUMBERS = {  # of a scenario: what errors call it, its limit, the least that makes sense
    "batch": ("batch", "batch", 1),
    "context": ("context", "context", 1),
    "gamma": ("gamma", "gamma", 0),
    "tensor_parallel": ("--tensor-parallel", "tensor_parallel", 1),
    "draft_tensor_parallel": ("--draft-tp", "tensor_parallel", 0),  # 0 is refused with the target's
    "offload_layers": ("--offload-layers", "layers", 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is predicted: models, hardware, traffic and acceptance, each by its name or number.

    Arguments: `target` and `draft`, models of the catalog, config.json files or folders; `method`,
    how to draft (None: with the draft model, or without one not at all); `engine`, one of the
    catalog or a calibration file, which names its own accelerator; `precision` ("auto": what the
    target's own checkpoint says, bf16 where that says nothing; None: the same, or the
    calibration's); `kv_precision`, of the KV cache (None and "auto": the default of `precision`);
    `gamma`, drafted tokens per cycle (None: the best); at most one of `alpha`,
    `survival` (s_1, s_2, …; empty: not given) and `tokens_per_cycle` (bonus included);
    `draft_precision` ("auto": what the draft's own checkpoint says; None: the same, or the target's
    where that is named and the draft's says nothing); `draft_tensor_parallel` (None: the target's);
    `like`, the `model_type` as which a config.json of an unknown one is read; `offload_layers`,
    layers of the target in the memory of `host`, a CPU of the catalog (None: an assumed desktop).
    The others are those of `specsim.predict`.
    """

    target: str
    method: str | None = None
    draft: str | None = None
    accelerator: str | None = None
    engine: str = "cuda-graphs"
    precision: str | None = None
    kv_precision: str | None = None
    batch: int = 1
    context: int = 1024
    gamma: int | None = None
    alpha: float | None = None
    survival: tuple[float, ...] = ()
    tokens_per_cycle: float | None = None
    tensor_parallel: int = 1
    draft_precision: str | None = None
    draft_tensor_parallel: int | None = None
    routing_correlation: float | None = None
    like: str | None = None
    offload_layers: int = 0
    host: str | None = None
    top_p: float | None = None

    @property
    def calibrated(self) -> bool:
        """Whether the engine is a calibration file."""
        return self.engine.endswith(".json")

    @property
    def auto(self) -> bool:
        """Whether the target's own checkpoint says in which precision it is priced."""
        return self.precision == AUTO or (self.precision is None and not self.calibrated)

    @property
    def acceptance(self) -> dict[str, Any]:
        """The acceptance as an argument of `predict`; empty where none is given."""
        given = {
            "alpha": self.alpha,
            "survival": self.survival or None,
            "tokens_per_cycle": self.tokens_per_cycle,
        }
        return {name: value for name, value in given.items() if value is not None}


def require_sound(scenario: Scenario) -> None:
    """SpecsimError unless every number of a scenario is of its kind and below its limit."""
    for name, (option, limit, least) in WHOLE_NUMBERS.items():
        value = getattr(scenario, name)
        if value is not None:
            require_limit(limit, value, option)
            one_count(option, value, least)
    require_limit("gamma", len(scenario.survival), "the number of positions in survival")
    as_survival(scenario.survival)
    for name in ("alpha", "routing_correlation"):
        if getattr(scenario, name) is not None:
            within(name, getattr(scenario, name))
    if scenario.top_p is not None:
        within("top_p", scenario.top_p, low=1e-9)
    if scenario.tokens_per_cycle is not None:
        most = LIMITS["gamma"].most + 1.0
        within("tokens_per_cycle", scenario.tokens_per_cycle, low=1.0, high=most)
