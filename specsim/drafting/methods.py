"""A drafting method by its name, with the catalog's parameters."""

from typing import Any

from specsim import catalog
from specsim.architecture import HEAD_METHODS, Architecture, DraftHead
from specsim.checks import SpecsimError
from specsim.drafting.combined import Cascade
from specsim.drafting.drafter import Drafter
from specsim.drafting.heads import Eagle, Medusa, ParallelBlock, TrainedHead
from specsim.drafting.lookup import Lookup
from specsim.drafting.models import DraftModel, EarlyExit, QuantisedSelf
from specsim.drafting.overlapped import SSD, Pearl
from specsim.drafting.trees import DynamicTree, StaticTree
from specsim.operators import AUTO

NEED_A_DRAFT = ("draft-model", "pearl", "ssd", "cascade")
TAKE_A_DRAFT = (*NEED_A_DRAFT, "tree")
OF_THE_TREE = ("child_probs", "depth", "children")


def method(
    name: str,
    target: Architecture,
    draft: Architecture | DraftHead | None = None,
    *,
    draft_precision: str | None = None,
    draft_tensor_parallel: int | None = None,
    **changes: Any,
) -> Drafter:
    """The method called `name` for `target`, as `catalog/methods.toml` has it.

    `draft` is the draft model of methods that have one (`draft-model`, `pearl`, `ssd`, `cascade`;
    a `tree` grows from it, or else from an EAGLE-3 head), or a head as its config describes it
    (`specsim.architecture.draft_head`), `draft_precision` is the
    format of its weights and `draft_tensor_parallel` the number of its devices; both default to the
    target's, but a draft with devices of its own (`pearl`, `ssd`) has one. `changes`
    replace the catalog's parameters. Raises SpecsimError for an unknown name or parameter, a draft
    that is missing, and one that is not wanted.
    """
    name = catalog.resolve("methods", name)
    parameters = dict(catalog.lookup("methods", name).get("parameters", {}))
    unknown = sorted(changes.keys() - parameters.keys())
    if unknown:
        raise SpecsimError(
            f"{name} has no parameter {unknown[0]!r}; it has: {', '.join(parameters) or 'none'}"
        )
    parameters |= changes
    if draft is None and name in NEED_A_DRAFT:
        raise SpecsimError(f"the method {name} needs a draft model: give --draft NAME|config.json")
    takes = TAKE_A_DRAFT if not isinstance(draft, DraftHead) else (*HEAD_METHODS, *TAKE_A_DRAFT)
    if isinstance(draft, Architecture) and name in HEAD_METHODS:
        raise SpecsimError(
            f"the method {name} has no draft model: leave out the draft, or give the config.json "
            f"of a head, which {draft.name} is not"
        )
    if draft is not None and name not in takes:
        raise SpecsimError(f"the method {name} has no draft model: leave out the draft")
    if draft is None and draft_precision is not None:
        raise SpecsimError(f"the method {name} has no draft model whose precision could differ")
    if draft is None and draft_tensor_parallel is not None:
        raise SpecsimError(f"the method {name} has no draft model to split over other devices")
    if isinstance(draft, DraftHead):
        return _trained(name, target, draft, parameters, draft_precision, draft_tensor_parallel)
    model = None
    if draft is not None:
        model = DraftModel(draft, precision=draft_precision, tensor_parallel=draft_tensor_parallel)
    if name in ("n-gram", "suffix"):
        if "host_s" not in changes:  # a calibration may know better
            del parameters["host_s"]
        return Lookup(**parameters)
    if name == "early-exit":
        return EarlyExit(target, **parameters)
    if name == "quantised-self":
        return QuantisedSelf(target, **parameters)
    if name == "medusa":
        return Medusa(target, **parameters)
    if name in ("eagle", "eagle-3", "mtp"):
        return Eagle(target, **_fitting(parameters, target))
    if name in ("p-eagle", "dflash"):
        return ParallelBlock(target, block=_block(name, target), **_fitting(parameters, target))
    if name == "eagle-2":
        tree = {key: parameters.pop(key) for key in OF_THE_TREE if key in parameters}
        return DynamicTree(Eagle(target, **_fitting(parameters, target)), **tree)
    if name == "tree":
        return StaticTree(model or method("eagle-3", target), **parameters)
    assert model is not None
    if name == "draft-model":
        return model
    if name == "pearl":
        return Pearl(model)
    if name == "ssd":
        return SSD(model, **parameters)
    if name == "cascade":
        return Cascade(model, Lookup(hit=parameters.pop("inner_hit")), **parameters)
    raise SpecsimError(f"{name} is in methods.toml, but drafting/methods.py does not build it")


def _block(name: str, target: Architecture) -> int | None:
    """The largest block of the published heads of a method for a target; None where unknown."""
    sizes = [
        row["block_size"]
        for row in catalog.load("heads").values()
        if row["target"] == target.name and name in row["methods"] and "block_size" in row
    ]
    return max(sizes, default=None)


def _trained(
    name: str,
    target: Architecture,
    head: DraftHead,
    parameters: dict[str, Any],
    precision: str | None,
    devices: int | None,
) -> Drafter:
    """The method of a head that has a config of its own; the catalog knows its decay at most."""
    decay = parameters.get("decay", catalog.lookup("methods", head.method)
                           .get("parameters", {}).get("decay", 1.0))  # fmt: skip
    if head.method == "medusa":
        small = head.body.vocab_size
        return Medusa(
            target, heads=head.heads, decay=decay, acceptance=parameters["acceptance"],
            layers=head.head_layers, draft_vocab=None if small == target.vocab_size else small,
            precision=precision or AUTO, about=head.notes,
        )  # fmt: skip
    trained = TrainedHead(head, target, decay, precision, devices)
    if name == "eagle-2":
        tree = {key: parameters[key] for key in OF_THE_TREE if key in parameters}
        return DynamicTree(trained, **tree)
    if name == "tree":
        return StaticTree(trained, **parameters)
    if name != head.method:
        raise SpecsimError(
            f"{head.body.name} is a head of the method {head.method}: it cannot draft for {name}"
        )
    return trained


def _fitting(parameters: dict[str, Any], target: Architecture) -> dict[str, Any]:
    """The catalog's reduced draft vocabulary is meant for large ones: never above the target's."""
    if parameters.get("draft_vocab") is None:
        return parameters
    return parameters | {"draft_vocab": min(parameters["draft_vocab"], target.vocab_size)}
