"""No first click leads to blank axes: from every preset, every choice of every control gives a
prediction, and what was changed to get there is said."""

import pytest

from specsim import SpecsimError, catalog

pytest.importorskip("ipywidgets")

from specsim import explorer
from specsim.architecture import model, shares_tokenizer
from specsim.explorer import Explorer, controls
from specsim.explorer.choices import drafts_of, fitted
from specsim.explorer.scenarios import (
    NAMES,
    START,
    ExplorerScenario,
    changed,
    predict_scenario,
)

STARTS = {"start": START} | {each.key: each.scenario for each in explorer.PRESETS}
BLANK = "No prediction"


def choices(name: str, scenario: ExplorerScenario) -> list[object]:
    """Everything that the control of a value offers; of a slider without stops, its ends."""
    made = controls.control(name, scenario)
    if hasattr(made, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in made.options]
        return [None if value == "best" else value for value in values]
    return [] if name == "survival" else [made.min, made.max]


@pytest.mark.parametrize(
    "start", [pytest.param(s, marks=[pytest.mark.slow] * (n % 4 > 0)) for n, s in enumerate(STARTS)]
)
def test_every_choice_of_every_control_gives_a_prediction(start: str) -> None:
    tried = 0
    for name in NAMES:
        for value in choices(name, STARTS[start]):
            scenario, said = fitted(changed(STARTS[start], **{name: value}))
            shown = predict_scenario(scenario)  # SpecsimError would be a blank page
            assert shown.speedup > 0, (name, value)
            assert bool(said) == (scenario != changed(STARTS[start], **{name: value})), (
                name,
                value,
            )
            tried += 1
    assert tried > 250


@pytest.mark.parametrize("target", catalog.load("models"))
def test_a_target_offers_only_drafts_that_fit(target: str) -> None:
    offered = choices("draft", changed(target=target, draft=(drafts_of(target) or ["gpt2"])[0]))
    drafts = drafts_of(target)
    assert drafts == [draft for draft in offered if draft in drafts]
    assert all(shares_tokenizer(model(draft), model(target)) for draft in drafts)
    scenario, _ = fitted(changed(target=target))
    assert (scenario.method == "draft-model") == bool(drafts)


@pytest.fixture(scope="module")
def live(sketched) -> Explorer:
    return sketched


@pytest.mark.parametrize("target", ["qwen3-32b", "deepseek-v3", "phi-4"])
def test_a_new_target_chooses_a_draft_and_says_so(live: Explorer, target: str) -> None:
    live.show(START)
    live.controls["target"].value = target
    assert BLANK not in live.sentence.value
    assert target in live.sentence.value
    draft, method = live.controls["draft"].value, live.controls["method"].value
    if drafts_of(target):
        assert draft in drafts_of(target)
        assert f"{draft} drafts" in live.sentence.value
    else:
        assert method == ("mtp" if target == "deepseek-v3" else "n-gram")
        assert "No smaller model" in live.sentence.value


def test_a_change_that_needs_no_other_changes_nothing(live: Explorer) -> None:
    live.show(START)
    live.controls["batch"].value = 8
    assert live.scenario == changed(batch=8)
    assert "drafts: it has the tokenizer" not in live.sentence.value


def test_what_goes_beyond_a_method_is_cut_to_it() -> None:
    scenario, said = fitted(changed(method="medusa", gamma=12))
    assert (scenario.gamma, said) == (4, ["γ is 4: no more tokens can be drafted here."])
    assert fitted(changed(survival=(0.9, 0.5), gamma=6))[0].gamma == 2
    assert fitted(changed(target="qwen2.5-7b", draft="qwen2.5-0.5b", tensor_parallel=16))[
        0
    ].tensor_parallel in (1, 2)
    with pytest.raises(SpecsimError):
        fitted(changed(target="nothing-like-it"))


def test_the_waterfall_is_drawn_where_nothing_gains(live: Explorer) -> None:
    slow = predict_scenario(changed(alpha=0.1, draft="llama-3.2-3b"))
    assert (slow.gamma, slow.drafting_gamma) == (0, 1)
    factors = slow.waterfall(slow.drafting_gamma)
    assert factors["ideal"] == 2.0
    assert live.show(changed(alpha=0.1, draft="llama-3.2-3b")) is None
    assert predict_scenario(START).drafting_gamma == predict_scenario(START).gamma
