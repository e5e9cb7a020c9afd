"""Two settings side by side, the acceptance of a task, the memory as a bar, files to download."""

import base64
import csv
import html
import io
import re

import numpy as np
import pytest

pytest.importorskip("ipywidgets")

from PIL import Image

import specsim
from specsim.acceptance.published import rates_of
from specsim.explorer import Explorer, memory_bar
from specsim.explorer.comparing import Kept, differences, results, token_s, verdict
from specsim.explorer.scenarios import PLAIN, START, changed, predict_scenario
from specsim.explorer.taking import as_csv, links
from specsim.explorer.tasks import tasks_of
from specsim.planning.acceptances import acceptance_by_task, acceptance_range, alphas_of


def words(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", text))


@pytest.fixture(scope="module")
def live(sketched) -> Explorer:
    return sketched


@pytest.fixture
def fresh(live: Explorer) -> Explorer:
    live.comparison.forget.click()
    live.show(START)
    return live


# A and B


def kept(**changes: object) -> Kept:
    scenario = changed(**changes)
    return Kept(scenario, predict_scenario(scenario))


def test_a_setting_that_is_kept_stands_beside_the_next(fresh: Explorer) -> None:
    fresh.comparison.keep.click()
    assert "Change anything" in words(fresh.comparison.html.value)
    fresh.controls["batch"].value = 32
    a, b = predict_scenario(START), predict_scenario(changed(batch=32))
    said = words(fresh.comparison.html.value)
    assert f"{token_s(a) / token_s(b):.2f} times the tokens per second of A" in said
    assert f"{32 * token_s(a) / token_s(b):.2f} times as many in all" in said
    assert f"{a.speedup:.2f}×" in said
    assert f"{b.speedup:.2f}×" in said
    panel = fresh.comparison.panel
    np.testing.assert_array_equal(panel.before.get_ydata(), a.over.speedup)
    assert panel.axes.get_ylim()[1] > a.over.speedup.max()
    assert panel.note.get_text().startswith("- - A")


def test_a_and_b_are_swapped_and_forgotten(fresh: Explorer) -> None:
    fresh.comparison.keep.click()
    fresh.controls["alpha"].value = 0.5
    fresh.comparison.swap.click()
    assert fresh.scenario == START
    assert fresh.comparison.kept.scenario == changed(alpha=0.5)
    fresh.comparison.forget.click()
    assert fresh.comparison.html.value == ""
    assert len(fresh.comparison.panel.before.get_ydata()) == 0
    assert fresh.comparison.swap.disabled
    fresh.comparison.swap.click()  # a browser would not: nothing happens
    assert fresh.scenario == START


def test_what_cannot_be_predicted_is_not_kept(fresh: Explorer) -> None:
    fresh.controls["survival"].value = "half"
    fresh.comparison.keep.click()
    fresh.comparison.swap.click()
    assert fresh.comparison.kept is None
    assert "No prediction" in fresh.words


def test_only_settings_that_are_used_and_differ_are_listed() -> None:
    a, b = kept(), kept(method="eagle-3", gamma=3, draft="llama-3.2-3b")
    named = {row.name: (row.a, row.b) for row in differences(a, b)}
    assert named == {
        "method": ("draft-model", "eagle-3"), "draft": ("llama-3.2-1b", "none"), "γ": ("best", "3"),
    }  # fmt: skip
    plain = {row.name for row in differences(kept(method=PLAIN), kept(method=PLAIN, alpha=0.1))}
    assert plain == set()


def test_results_are_those_of_predict() -> None:
    found = {row.name: row.b for row in results(kept(), kept(batch=8, gamma=3))}
    told = specsim.predict(
        specsim.model("llama-3.1-8b"), specsim.DraftModel(specsim.model("llama-3.2-1b")),
        specsim.system("h100-sxm", "vllm", "bf16"), gamma=3, batch=8, context=2048, alpha=0.8,
    )  # fmt: skip
    per_s = 8 * float(told.tokens_per_cycle / told.cycle_s)
    assert found["speedup over plain"] == f"{float(told.speedup):.2f}×"
    assert found["tokens/s, all"] == f"{per_s:,.0f}"
    assert found["per million tokens"] == f"${3.0 / 3600 / per_s * 1e6:.2f}"
    assert "too much" in results(kept(), kept(target="llama-3.1-405b"))[5].b


def test_a_tie_is_called_one() -> None:
    assert verdict(kept(), kept()) == "A and B are as fast as each other."
    same = verdict(kept(), kept(alpha=0.9))
    assert same.startswith("B gives each user 1.")
    assert "in all" not in same  # the batch is the same


# acceptance by task


@pytest.mark.parametrize("method", ["eagle-2", "eagle-3", "dflash", "draft-model", "n-gram"])
def test_the_alpha_of_a_task_is_the_median_of_its_rates(method: str) -> None:
    target, draft = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
    drafter = specsim.method(method, target, draft if method == "draft-model" else None)
    found = acceptance_by_task(drafter, method)
    assert found
    for each in found:
        rates = [rate for rate in rates_of(method) if rate.task.lower() == each.task.lower()]
        assert each.alpha == float(np.median(alphas_of(drafter, rates)))
        assert each.rates == len(rates)
    assert [each.alpha for each in found] == sorted((t.alpha for t in found), reverse=True)
    assert not {"Overall", "not stated", "Mean"} & {each.task for each in found}
    whole = acceptance_range(drafter, method)
    assert sum(each.rates for each in found) <= whole.rates


def test_a_task_sets_its_acceptance_and_says_whose_it_is(fresh: Explorer) -> None:
    fresh.controls["method"].value = "eagle-3"
    task = fresh.task.tasks[0]
    fresh.controls["survival"].value = "0.8, 0.6"
    fresh.task.choice.value = task.task
    assert fresh.scenario.alpha == round(task.alpha, 2)
    assert fresh.scenario.survival == ()
    assert f"on {task.task}: " in words(fresh.note.value)
    assert task.models[0] in words(fresh.note.value)
    fresh.controls["batch"].value = 8
    assert fresh.task.choice.value == task.task
    fresh.controls["alpha"].value = 0.33
    assert fresh.task.choice.value == ""
    assert f"on {task.task}" not in words(fresh.note.value)


def test_without_published_rates_there_is_nothing_to_choose(fresh: Explorer) -> None:
    fresh.controls["method"].value = "suffix"
    assert fresh.task.choice.disabled
    assert len(fresh.task.choice.options) == 1
    fresh.controls["method"].value = PLAIN
    assert tasks_of(predict_scenario(changed(method=PLAIN))) == ()
    assert fresh.task.choice.disabled


# memory


def test_the_bar_adds_up_to_the_footprint() -> None:
    shown = predict_scenario(changed(batch=16, gamma=4))
    parts = memory_bar.parts_of(shown)
    held = shown.footprint(gamma=4)
    assert sum(part.gigabytes for part in parts) == pytest.approx(float(held.total_bytes) / 1e9)
    widths = [float(each) for each in re.findall(r"width:([\d.]+)%", memory_bar.as_html(shown))]
    assert widths == pytest.approx([100 * part.gigabytes / 72 for part in parts], abs=0.01)
    assert {"weights", "KV cache", "draft", "draft's cache"} <= {part.name for part in parts}
    assert " left of 72.0 GB (90 % of 80)." in memory_bar.sentence(shown)


def test_the_bar_says_what_is_too_much() -> None:
    shown = predict_scenario(changed(target="llama-3.1-405b", tensor_parallel=4))
    assert " too much of 72.0 GB (90 % of 80) each." in memory_bar.sentence(shown)
    page = memory_bar.as_html(shown)
    assert "<u style" in page
    assert sum(map(float, re.findall(r"width:([\d.]+)%", page))) == pytest.approx(100, abs=0.1)
    assert page.count("■") == len(memory_bar.parts_of(shown))


# files


def test_the_csv_holds_the_curve_and_the_settings() -> None:
    shown = predict_scenario(changed(survival=(0.8, 0.5), price_per_hour=2.5))
    rows = list(csv.DictReader(io.StringIO(as_csv(shown))))
    assert [int(row["gamma"]) for row in rows] == shown.over.gamma.tolist()
    for name in ("speedup", "tokens_per_cycle", "cycle_s"):
        told = [float(row[name]) for row in rows]
        assert told == pytest.approx(np.ravel(getattr(shown.over, name)).tolist(), rel=1e-5)
    assert {row["set_survival"] for row in rows} == {"0.8 0.5"}
    assert {row["set_context"] for row in rows} == {"2048"}
    assert {row["set_alpha"] for row in rows} == {""}


def test_links_download_what_is_shown() -> None:
    live = Explorer(measurements=None, under_load=False)
    found = dict(re.findall(r'download="([^"]+)" href="data:[^,]+,([^"]+)"', live.take.value))
    name = "llama-3.1-8b-draft-model-h100-sxm-batch-1"
    assert set(found) == {f"{name}.png", f"{name}.csv"}, found.keys()
    picture = Image.open(io.BytesIO(base64.b64decode(found[f"{name}.png"])))
    one = Image.open(io.BytesIO(bytes(next(iter(live.images.values())).value)))
    assert picture.size == (2 * one.width, 2 * one.height)
    assert base64.b64decode(found[f"{name}.csv"]).decode() == as_csv(live.shown)
    live.controls["survival"].value = "half"
    assert live.take.value == live.memory.value == ""


def test_without_pictures_there_are_numbers() -> None:
    assert "CSV" in links(predict_scenario(START), [])
    assert "PNG" not in links(predict_scenario(START), [])
