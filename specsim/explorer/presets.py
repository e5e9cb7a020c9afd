"""Six settings that tell a story; every number in it is computed when it is shown."""

from dataclasses import dataclass

from specsim.catalog import slug
from specsim.checks import SpecsimError
from specsim.explorer.setting import Setting


@dataclass(frozen=True, slots=True)
class Preset:
    name: str
    setting: Setting
    story: str

    @property
    def key(self) -> str:
        """Its name in a link."""
        return slug(self.name)


PRESETS = (
    Preset(
        "chat at batch 1",
        Setting(),
        "One person waits for one answer, and the chip waits for its memory. The spare arithmetic "
        "is what speculation spends. Move α, then γ.",
    ),
    Preset(
        "high-QPS server",
        Setting(batch=256, context=1024, gamma=5, alpha=0.7),
        "Hundreds of sequences share each read of the weights, so the arithmetic is no longer "
        "spare: drafts and wide verification are paid for. Move the batch, then set γ to best.",
    ),
    Preset(
        "128k context",
        Setting(accelerator="h200-sxm", batch=4, context=131072),
        "The KV cache outweighs the weights. A wider pass reads it once all the same, but the "
        "draft drags a cache of its own behind it. Try eagle-3 as the method.",
    ),
    Preset(
        "MoE",
        Setting(target="qwen3-30b-a3b", draft="qwen3-0.6b", batch=8, alpha=0.75, gamma=3),
        "Every further row wakes further experts, so verification reads more weights than a plain "
        "step does. Move the batch up and see where the experts are all awake.",
    ),
    Preset(
        "laptop",
        Setting(
            target="qwen3-8b", draft="qwen3-0.6b", accelerator="m4-max", engine="llama.cpp",
            precision="q4_k_m", context=4096, alpha=0.7, price_per_hour=0.0,
        ),
        "Small weights make each byte dearer: the cache and the overheads weigh more beside them, "
        "and there is little arithmetic to spare. Compare with bf16.",
    ),
    Preset(
        "the launch-bound draft",
        Setting(
            target="qwen3-8b", draft="qwen3-0.6b", accelerator="h200-sxm", engine="torch-eager",
            context=1024, alpha=0.7,
        ),
        "The draft has a fraction of the parameters and most of the layers: its kernels are over "
        "before the next is launched. Change the engine to cuda-graphs.",
    ),
)  # fmt: skip


def preset(name: str) -> Preset:
    """The preset of that name or key. Raises SpecsimError with the names there are."""
    for each in PRESETS:
        if slug(name) == each.key:
            return each
    known = ", ".join(each.key for each in PRESETS)
    raise SpecsimError(f"no preset is called {name!r}; there are: {known}")
