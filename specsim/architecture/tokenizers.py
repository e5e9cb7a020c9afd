"""Who can draft for whom: a draft and its target must give every token the same id."""

from functools import cache

from specsim import catalog
from specsim.architecture.shape import Architecture
from specsim.checks import SpecsimError

PADDING = 0.01  # where a tokenizer is unknown, tables whose sizes differ by less may be one's


def tokenizer_of(model: Architecture) -> str | None:
    """The tokenizer family of a model, a row of tokenizers.toml. A model from a file is told by the
    size of its vocabulary, where every model of the catalog with that size is of one family; None
    where that says nothing (32,000 tokens: Llama 2, Mistral or others)."""
    if model.tokenizer is not None:
        return model.tokenizer
    families = _families_by_size().get(model.vocab_size, frozenset())
    return next(iter(families)) if len(families) == 1 else None


@cache
def _families_by_size() -> dict[int, frozenset[str]]:
    """The families of the catalog's models with a vocabulary of that size."""
    found: dict[int, frozenset[str]] = {}
    for row in catalog.load("models").values():
        size = row["config"]["vocab_size"]
        found[size] = found.get(size, frozenset()) | {row["tokenizer"]}
    return found


def drafts_for(target: Architecture) -> list[str]:
    """The catalog's models that can draft for `target`: those of its tokenizer family with fewer
    parameters, smallest first. Empty if its family is unknown, or has no smaller model."""
    family, most = tokenizer_of(target), target.parameters
    rows = catalog.load("models")
    found = [
        (row["parameters"], name)
        for name, row in rows.items()
        if row["tokenizer"] == family and row["parameters"] < most
    ]
    return [name for _, name in sorted(found)]


def shares_tokenizer(draft: Architecture, target: Architecture) -> bool:
    """Whether a draft can share the target's tokenizer: one family, in tables of any size. Where a
    family is unknown, sizes that differ by more than a padding tell two tokenizers apart."""
    families = tokenizer_of(draft), tokenizer_of(target)
    if None not in families:
        return families[0] == families[1]
    return abs(draft.vocab_size - target.vocab_size) <= PADDING * target.vocab_size


def require_tokenizer_of(target: Architecture, draft: Architecture, label: str = "") -> None:
    """SpecsimError unless `draft`, called `label` or by its name, can share the target's tokenizer;
    it names the drafts that can."""
    if shares_tokenizer(draft, target):
        return
    label = label or draft.name
    ours, theirs = tokenizer_of(draft), tokenizer_of(target)
    drafts = drafts_for(target)
    remedy = "none in the catalog is known to fit" if theirs is None else "no smaller model has it"
    if drafts:
        shown = ", ".join(drafts[:6])
        remedy = f"these fit: {shown}{', …' if len(drafts) > 6 else ''}"
    differ = (
        f"{label} has {draft.vocab_size} tokens and {target.name} {target.vocab_size}"
        if None in (ours, theirs)
        else f"{label} has the tokenizer {ours} and {target.name} {theirs}"
    )
    raise SpecsimError(f"{differ}: a draft must share the target's vocabulary ({remedy})")
