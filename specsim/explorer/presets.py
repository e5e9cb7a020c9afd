"""Six scenarios that each tell a story; every number is computed when it is shown."""

from dataclasses import dataclass

from specsim.catalog import slug
from specsim.checks import SpecsimError
from specsim.explorer.scenarios import START, ExplorerScenario, changed


@dataclass(frozen=True, slots=True)
class Preset:
    """A scenario with a name, and what to see in it."""

    name: str
    scenario: ExplorerScenario
    story: str

    @property
    def key(self) -> str:
        """Its name in a link."""
        return slug(self.name)


PRESETS = (
    Preset(
        "chat at batch 1",
        START,
        "One user waits for one answer, and the accelerator waits for its memory. Its arithmetic "
        "is idle meanwhile, and speculation uses it. Move α, then γ.",
    ),
    Preset(
        "high-QPS server",
        changed(batch=256, context=1024, gamma=5, alpha=0.7),
        "Hundreds of sequences share each read of the weights, so little arithmetic is idle: "
        "drafts and a wider verification cost time. Move the batch, then set γ to best.",
    ),
    Preset(
        "128k context",
        changed(accelerator="h200-sxm", batch=4, context=131072),
        "The KV cache is larger than the weights. A wider pass still reads it only once, but the "
        "draft has a KV cache of its own. Try eagle-3 as the method.",
    ),
    Preset(
        "MoE",
        changed(target="qwen3-30b-a3b", draft="qwen3-0.6b", batch=8, alpha=0.75, gamma=3),
        "Every additional token activates additional experts, so verification reads more weights "
        "than a plain step. Raise the batch until all experts are active.",
    ),
    Preset(
        "laptop",
        changed(
            target="qwen3-8b", draft="qwen3-0.6b", accelerator="m4-max", engine="llama.cpp",
            precision="q4_k_m", context=4096, alpha=0.7, price_per_hour=0.0,
        ),
        "The weights are small, so the KV cache and the overheads are a larger share of a step, "
        "and little arithmetic is idle. Compare with bf16.",
    ),
    Preset(
        "the launch-bound draft",
        changed(
            target="qwen3-8b", draft="qwen3-0.6b", accelerator="h200-sxm", engine="torch-eager",
            context=1024, alpha=0.7, gamma=4,
        ),
        "The draft has a fraction of the parameters but most of the layers: each kernel ends "
        "before the next is launched. Change the engine to cuda-graphs.",
    ),
)  # fmt: skip


def preset(name: str) -> Preset:
    """The preset with that name or key. Raises SpecsimError with the names of all."""
    for each in PRESETS:
        if slug(name) == each.key:
            return each
    known = ", ".join(each.key for each in PRESETS)
    raise SpecsimError(f"no preset is called {name!r}; there are: {known}")
