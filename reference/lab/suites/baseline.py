"""The baseline: transformers' `generate` and assisted generation, timed in turn with our decoder.

These are the points of the part `peer`. transformers runs on the same weights. A point holds its
time per token as `cycle_s` (one token per cycle) and our own plain step as `step_s`, so the
"speedup" of the point is the speed of transformers relative to our plain decoding. Decoding is
greedy, so both write the same text up to rounding.
"""

import time
from functools import partial

import torch

from reference.checkpoints import PAIR
from reference.drafters import NoDrafter
from reference.lab.probes.timing import seconds_of, synchronise
from reference.lab.suites.measuring import Measurer, scenario
from reference.lab.suites.models import Models
from reference.lab.suites.points import PlannedPoint
from reference.lab.suites.variants import interleaved, variant_of
from reference.packing import PackedLinear
from reference.statistics import Statistics
from reference.transformer import Transformer
from reference.weights import sources
from specsim.architecture import to_config
from specsim.checks import SpecsimError
from specsim.evidence.measurement import Point, Timing


def measure_baseline(point: PlannedPoint, models: Models, measurer: Measurer, pair: str) -> Point:
    """Time our plain steps and the tokens of transformers, in turn.

    `pair` is the folder of a trained pair. Raises ImportError if transformers is not installed.
    """
    target, assistant = their_models(point, models, pair)
    options: dict = {"do_sample": False, "pad_token_id": 0}
    if point.gamma:
        settings = assistant.generation_config
        settings.num_assistant_tokens = point.gamma
        settings.num_assistant_tokens_schedule = "constant"
        settings.assistant_confidence_threshold = 0.0
        options["assistant_model"] = assistant

    def generate(cycles: int, seed: int) -> Statistics:
        prompts = models.prompts("timed", point.batch, point.context)
        if point.batch == 1:
            prompts = [models.prompts("timed", seed + 1, point.context)[seed]]
        length = min(map(len, prompts))
        ids = torch.tensor([prompt[:length] for prompt in prompts], device=models.target.device)
        options["attention_mask"] = torch.ones_like(ids)
        result = Statistics(0)
        read = partial(target.generate, ids, max_new_tokens=1, **options)
        first = seconds_of(read, ids.device)
        tokens = max(8, cycles)
        before = time.perf_counter()
        written = target.generate(ids, max_new_tokens=tokens, **options)
        synchronise(ids.device)
        took = time.perf_counter() - before - first  # both calls read the prompt
        count = max(written.shape[1] - length - 1, 1)
        zeros = [0] * point.batch
        result.add_cycle(zeros, zeros, [0.0, max(took, 1e-9) / count, 0.0, 0.0])
        return result

    variants = {"plain": variant_of(point, models, NoDrafter(), 1.0), "theirs": generate}
    probed: list[float] = []
    totals, rounds, _ = interleaved(
        variants, measurer.effort, lambda: probed.append(measurer.probe.now_s(point.mode))
    )
    theirs = Timing.of(totals["theirs"].cycle_times)
    assert theirs is not None
    return Point(
        scenario=scenario(point, models, totals["plain"], rounds),
        step_s=Timing.of(totals["plain"].cycle_times),
        draft_step_s=None,
        verify_step_s=None,
        cycle_s=theirs,
        host_s=None,
        tokens_per_cycle=1.0,
        tokens_per_s=point.batch / theirs.median,
        peak_memory_bytes=measurer.peak_memory(),
        notes=f"cycle_s is transformers' time per token, step_s our own plain step; {models.note}",
        name=point.name,
        part=point.part,
        drift=measurer.drift(probed, point.mode),
    )


def their_models(point: PlannedPoint, models: Models, pair: str):
    """The target and the assistant of transformers; None if the point has no assistant."""
    import transformers

    transformers.logging.set_verbosity_error()
    wanted = [("target", models.target), ("draft", models.draft)][: 2 if point.gamma else 1]
    if point.target == "trained":  # ours may be packed, so the same files are read again
        root = PAIR if pair == "bundled" else pair
        made = [
            transformers.AutoModelForCausalLM.from_pretrained(
                f"{root}/{role}", dtype=model.dtype
            ).to(model.device)
            for role, model in wanted
        ]
    else:
        made = [their_model(model) for _, model in wanted]
    made = [model.eval() for model in made]
    return made[0], made[1] if point.gamma else None


def their_model(model: Transformer):
    """A transformers model that shares the weights of ours: nothing is copied.

    Raises SpecsimError if the weights are packed.
    """
    import transformers

    if any(isinstance(module, PackedLinear) for module in model.modules()):
        raise SpecsimError(
            f"{model.architecture.name} is packed: transformers cannot share its weights"
        )
    ours = model.architecture
    fields = to_config(ours)
    config = transformers.AutoConfig.for_model(**fields)
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    theirs.requires_grad_(False)  # random weights are inference tensors, without gradients
    qkv, tensors = [ours.query_size, ours.kv_size, ours.kv_size], {}
    for name, weight in model.state_dict().items():
        if name == "head.weight":  # also if it is tied to the embedding
            tensors["lm_head.weight"] = weight
            continue
        (group,) = sources(name, ours, {})
        pieces = weight.split(qkv) if ".qkv." in name else weight.chunk(len(group))
        tensors |= dict(zip(group, pieces, strict=True))
    theirs.load_state_dict(tensors, strict=True, assign=True)
    rotary = theirs.model.rotary_emb  # its tables are not weights; they are on the meta device
    theirs.model.rotary_emb = type(rotary)(config=theirs.config).to(model.device)
    return theirs
