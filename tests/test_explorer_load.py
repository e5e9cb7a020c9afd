"""The card for many users: what it says is what the simulator says, and nothing that is typed into
it raises an error."""

import asyncio
import contextlib
import html
import io
import json
import re
import shlex
from dataclasses import dataclass, replace

import numpy as np
import pytest

pytest.importorskip("ipywidgets")

from specsim import SpecsimError, cli, explorer, serving
from specsim.acceptance import IID
from specsim.explorer import Explorer
from specsim.explorer.copying import as_query, as_serving_code, as_serving_command, from_query
from specsim.explorer.live_view import REST_S
from specsim.explorer.load_card import LOAD, LoadCard, sentences, speed
from specsim.explorer.load_view import LATER_S
from specsim.explorer.scenarios import MOST_OF_LOAD, PLAIN, changed, predict_scenario
from specsim.explorer.under_load import (
    MOST_USERS,
    UnderLoad,
    compare,
    kept,
    requests_of,
    serve,
    traffic_of,
)
from specsim.serving import tuning

SMALL = {"users": 8, "answer": 50, "prompt": 100}


def words(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", text))


@pytest.fixture(scope="module")
def found() -> tuple[object, UnderLoad]:
    shown = predict_scenario(changed(**SMALL))
    return shown, serve(shown)


@pytest.mark.parametrize(
    "changes", [SMALL, {"method": PLAIN} | SMALL, {"rate": 30.0, "answer": 40, "tpot_ms": 8.0}]
)
def test_the_command_and_the_code_find_what_is_shown(
    changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = predict_scenario(changed(**changes))
    best = (load := serve(shown)).best
    asked = (shown.scenario, best.policy, len(load.load))
    program, *options = shlex.split(as_serving_command(*asked))
    assert program == "specsim"
    assert cli.main([*options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for name in ("request_goodput", "mean_tpot_ms", "p90_ttft_ms", "output_throughput", "state"):
        assert told[name] == best.summary[name], name
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(as_serving_code(*asked), {})
    assert out.getvalue().split()[0] == best.state
    assert float(out.getvalue().split()[-1]) == best.goodput


def test_the_best_is_what_tuning_finds() -> None:
    """All policies are tried on the same requests: none has more good ones per second."""
    shown = predict_scenario(changed(rate=30.0, alpha=0.6, tpot_ms=14.0, answer=100))
    quick = compare(shown, serve(shown))
    everything = tuning.tune(
        quick.off.loop.server, quick.load, serving.Accepting(IID(0.6)),
        slo=quick.off.slo, gammas=np.arange(6),
    )  # fmt: skip
    assert quick.best.goodput >= 0.98 * max(run.goodput for run in everything.runs)


def test_the_card_says_what_was_simulated(found: tuple[object, UnderLoad]) -> None:
    shown, load = found
    card = LoadCard()
    card.first(shown)
    text = words(card.html)
    best, off = load.best, load.off
    assert f"8 users, TTFT 500 ms, {1e3 / 33.3:.3g} tokens/s each: the promise holds" in text
    assert f"{speed(best):.0f} tokens/s, without a draft {speed(off):.0f}" in text
    assert f"{kept(best):.0%}" in text
    assert f"{best.goodput:.2f}/s" in text
    assert f"{off.goodput:.2f}/s" in text
    assert "specsim serve-sim" in text


def test_a_promise_is_kept_by_hand(found: tuple[object, UnderLoad]) -> None:
    """Requests counted one by one, for limits that some of them miss."""
    _, load = found
    run = load.off
    middle = 1e3 * float(np.median(run.tpot_s))
    strict = replace(run, slo=serving.Slo(ttft=500, tpot=middle))
    good = (run.ttft_s <= 0.5) & (1e3 * run.tpot_s <= middle)
    assert kept(strict) == np.mean(good[SMALL["users"] :])  # the first ones all come at once
    assert not UnderLoad(load.load, (strict,)).holds


def test_of_those_that_tie_the_faster_answers_win(found: tuple[object, UnderLoad]) -> None:
    _, load = found
    off, fixed = load.runs
    same = replace(off, summary=off.summary | {"request_goodput": fixed.goodput})
    assert np.nanmean(fixed.e2el_s) < np.nanmean(off.e2el_s)
    assert UnderLoad(load.load, (same, fixed)).best is fixed
    more = replace(off, summary=off.summary | {"request_goodput": 1.02 * fixed.goodput})
    assert UnderLoad(load.load, (more, fixed)).best is more


def test_a_set_gamma_and_a_schedule_are_compared() -> None:
    shown = predict_scenario(changed(gamma=8, users=60, answer=50, prompt=100, alpha=0.6))
    first = serve(shown)
    all_of_them = compare(shown, first)
    policies = [run.policy for run in all_of_them.runs]
    assert policies[:2] == [run.policy for run in first.runs]
    assert policies[2:] == ["fixed:8", "scheduled"]
    assert all_of_them.fixed.policy != "fixed:8"


def test_without_a_draft_there_is_nothing_to_compare() -> None:
    shown = predict_scenario(changed(method=PLAIN, **SMALL))
    load = serve(shown)
    assert [run.policy for run in load.runs] == ["off"]
    assert compare(shown, load) is load
    assert len(sentences(shown.scenario, load)) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"users": 3.5}, "concurrency"),
        ({"rate": -1.0}, "--rate"),
        ({"tpot_ms": 0.0}, "tpot must be milliseconds above 0"),
        ({"ttft_ms": float("nan")}, "ttft must be milliseconds above 0"),
        ({"prompt": 0}, "at least 1 token"),
    ],
)
def test_wrong_values_are_said_in_the_card(changes: dict[str, object], said: str) -> None:
    card = LoadCard()
    card.first(predict_scenario(changed(**SMALL | changes)))
    assert said in words(card.html)
    assert card.found is None
    card.then(predict_scenario(changed(**SMALL | changes)))
    assert said in words(card.html)


def test_a_server_without_memory_is_said_in_the_card() -> None:
    card = LoadCard()
    card.first(predict_scenario(changed(target="llama-3-70b", **SMALL)))
    assert "Not simulated: no memory is left for a cache" in words(card.html)


def test_an_overload_is_said() -> None:
    shown = predict_scenario(changed(rate=500.0, prompt=800, answer=100))
    load = serve(shown)
    assert load.off.state == "overloaded"
    card = LoadCard()
    card.first(shown)
    assert "The queue grows as long as requests come" in words(card.html)
    assert "the promise does not hold" in words(card.html)


@pytest.mark.parametrize("users", [1, 20, 400, 1024])
@pytest.mark.parametrize("prompt", [1, 400, 32768])
@pytest.mark.parametrize("rate", [0.0, 0.1, 50.0])
def test_runs_are_short(users: int, prompt: int, rate: float) -> None:
    scenario = changed(users=users, prompt=prompt, rate=rate)
    count = requests_of(scenario)
    assert 10 <= count <= max(MOST_USERS, users)
    assert rate or count >= users  # every user is there
    assert len(traffic_of(scenario)) == count


def test_a_link_holds_the_traffic() -> None:
    scenario = changed(users=37, rate=2.5, prompt=1000, answer=300, ttft_ms=250.0, tpot_ms=20.0)
    assert from_query(as_query(scenario)) == scenario
    for name, most in MOST_OF_LOAD.items():
        with pytest.raises(SpecsimError, match=name):
            from_query(f"{name}={2 * most:g}" if isinstance(most, float) else f"{name}={2 * most}")


class Waiting:
    """An event loop whose calls wait until they are asked for."""

    def __init__(self) -> None:
        self.calls: list[Later] = []

    def call_later(self, delay: float, call: object) -> "Later":
        self.calls.append(Later(delay, call, self.calls))
        return self.calls[-1]

    def rest(self) -> None:
        for later in sorted(self.calls, key=lambda later: later.delay):
            later.call()


@dataclass
class Later:
    delay: float
    call: object
    among: list["Later"]

    def cancel(self) -> None:
        self.among.remove(self)


def test_the_explorer_simulates_when_its_controls_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while a slider is dragged, and once for the last value."""
    loop, runs = Waiting(), []
    live = Explorer(measurements=None, **SMALL)
    live.load.first = lambda shown: runs.append(f"first {shown.scenario.users}")
    live.load.then = lambda shown: runs.append(f"then {shown.scenario.users}")
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    for users in (2, 4, 12):
        live.controls["users"].value = users
    assert runs == []
    assert len(loop.calls) == 4
    assert max(later.delay for later in loop.calls) == REST_S + LATER_S
    loop.rest()
    assert runs == ["first 12", "then 12"]


def test_the_widget_alone_follows_its_controls() -> None:
    made = explorer.many_users(**SMALL)
    assert list(made.controls) == list(LOAD)
    assert "8 users" in words(made.html.value)
    first = made.card.found
    made.show(replace(made.scenario, batch=64))  # has no effect here
    assert made.card.found is first
    made.controls["rate"].value = 5.0
    assert made.controls["users"].disabled
    assert "5 requests/s" in words(made.html.value)
    made.show(changed(target="llama-3.1-8b", tensor_parallel=16, draft="qwen3-0.6b", **SMALL))
    assert made.html.value == ""
    assert "No prediction" in made.sentence.value


def test_the_explorer_shows_the_card() -> None:
    live = Explorer(measurements=None, **SMALL)
    assert "8 users" in words(live.load_shown.value)
    assert "users=8" not in live.copy.value  # a link is of a page alone
    assert set(LOAD) <= set(live.controls)
    live.controls["survival"].value = "0.8, half"
    assert live.load_shown.value == ""
