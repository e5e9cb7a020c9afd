"""What is taken along says the same as what is shown."""

import asyncio
import contextlib
import io
import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from specsim import SpecsimError, cli, explorer
from specsim.cli.options import scenario_of
from specsim.evidence.measurement import Environment, Measurement, Point, Timing
from specsim.evidence.measurement import RunConditions as Run
from specsim.explorer import page
from specsim.explorer.copying import (
    as_code,
    as_command,
    as_launch,
    as_query,
    engine_to_launch,
    from_query,
)
from specsim.explorer.measured import Markers, marker_of, markers_in
from specsim.explorer.scenarios import (
    PLAIN,
    START,
    ExplorerScenario,
    changed,
    predict_scenario,
)
from specsim.scenario import Scenario

SCENARIOS = [
    *(each.scenario for each in explorer.PRESETS),
    changed(method="eagle-3", batch=64),
    changed(method=PLAIN),
    changed(survival=(0.8, 0.5), tensor_parallel=2),
    changed(gamma=3, precision="fp8"),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=range(len(SCENARIOS)))
def test_the_code_computes_what_is_shown(scenario: ExplorerScenario) -> None:
    told, names = io.StringIO(), {}
    with contextlib.redirect_stdout(told):
        exec(as_code(scenario.used()), names)
    shown = predict_scenario(scenario)
    last = told.getvalue().split()[-1]
    if scenario.method == PLAIN:
        assert float(names["prediction"].step_s) == pytest.approx(shown.of("step_s"))
    else:
        assert float(last) == pytest.approx(shown.speedup)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=range(len(SCENARIOS)))
def test_the_command_computes_what_is_shown(
    scenario: ExplorerScenario, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = shlex.split(as_command(scenario.used()))
    assert program == "specsim"
    assert cli.main([*words, "--json"]) == 0
    found, shown = json.loads(capsys.readouterr().out), predict_scenario(scenario)
    assert found["step_s"] == shown.of("step_s")
    assert found["speedup"] == (None if scenario.method == PLAIN else shown.speedup)
    assert found["gamma"] == (None if scenario.method == PLAIN else shown.gamma)


def test_a_command_writes_every_option() -> None:
    """Every value of a scenario, read back by the parser of the command line."""
    scenario = Scenario(
        target="a", method="b", draft="c", accelerator="d", engine="e", precision="f",
        kv_precision="g", batch=2, context=3, gamma=4, alpha=0.5, tensor_parallel=6,
        draft_precision="h", draft_tensor_parallel=5, routing_correlation=0.25,
    )  # fmt: skip
    for changes in ({}, {"alpha": None, "survival": (0.5, 0.25)}, {"alpha": None, "gamma": None}):
        expected = replace(scenario, **changes)
        words = shlex.split(as_command(expected))[1:]
        assert scenario_of(cli.build_parser(words).parse_args(words)) == expected


@pytest.mark.parametrize("scenario", SCENARIOS, ids=range(len(SCENARIOS)))
def test_a_link_leads_back_to_the_scenario(scenario: ExplorerScenario) -> None:
    assert from_query(as_query(scenario)) == scenario
    assert from_query("?" + as_query(scenario)) == scenario


def test_a_preset_has_a_short_link() -> None:
    assert as_query(explorer.preset("MoE").scenario) == "preset=moe"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("preset=mow", "no preset is called"),
        ("bacth=1", "no setting 'bacth'"),
        ("batch=many", "batch must be a whole number"),
        ("alpha=high", "alpha must be a number"),
        ("gamma=most", "gamma must be a whole number"),
    ],
)
def test_a_link_that_cannot_be_read_says_why(query: str, said: str) -> None:
    with pytest.raises(SpecsimError, match=said):
        from_query(query)


def flags(command: str) -> dict[str, str]:
    words = shlex.split(command, comments=True)
    assert words[:2] == ["vllm", "serve"]
    pairs = words[3:]
    return {"model": words[2]} | dict(zip(pairs[::2], pairs[1::2], strict=True))


def test_flags_of_vllm_carry_the_plan() -> None:
    changes = {"method": "eagle-3", "batch": 128, "alpha": 0.5, "tensor_parallel": 2}
    shown = predict_scenario(changed(**changes, precision="fp8"))
    given = flags(as_launch(shown, "vllm"))
    assert given["model"] == "meta-llama/Llama-3.1-8B-Instruct"  # that of the published head
    assert given["--tensor-parallel-size"] == "2"
    assert given["--quantization"] == "fp8"
    assert "--max-num-seqs" not in given  # a server has more users than the step that was priced
    speculation = json.loads(given["--speculative-config"])
    ranges = speculation["num_speculative_tokens_per_batch_size"]
    assert ranges[-1] == [ranges[-1][0], 128, shown.gamma]
    assert speculation["num_speculative_tokens"] == max(gamma for *_, gamma in ranges)


def test_the_command_is_that_of_the_engine_that_is_priced() -> None:
    assert engine_to_launch(changed(engine="sglang")) == "sglang"
    assert engine_to_launch(changed(engine="llama.cpp")) == "vllm"
    told = as_launch(predict_scenario(changed(engine="sglang")), "sglang")
    assert "sglang.launch_server" in told.splitlines()[-1]


def test_a_fixed_gamma_is_taken_as_it_is() -> None:
    given = flags(as_launch(predict_scenario(changed(gamma=7, method="eagle-3")), "vllm"))
    speculation = json.loads(given["--speculative-config"])
    assert (speculation["method"], speculation["num_speculative_tokens"]) == ("eagle3", 7)


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        (changed(method="pearl"), "vllm has no method like pearl"),
        (changed(alpha=0.0), "it gains nothing"),
        (changed(precision="int4"), "serve a checkpoint that is stored so"),
    ],
)
def test_what_vllm_cannot_do_is_said_in_a_comment(scenario: ExplorerScenario, said: str) -> None:
    told = as_launch(predict_scenario(scenario), "vllm")
    assert said in told.splitlines()[0]
    assert "--speculative-config" not in flags(told) or scenario.precision == "int4"


# Measured markers


def measured(scenario: ExplorerScenario, folder: Path) -> Measurement:
    shown = predict_scenario(scenario)
    draft = shown.drafter.architecture
    run = Run(
        target=shown.target, draft=draft, precision="bf16", method="draft-model", gamma=3,
        rule="token", temperature=1.0, batch=scenario.batch, context=scenario.context,
        allocated_context=4096, mode="cuda-graphs", seed=0,
    )  # fmt: skip
    times = dict.fromkeys(("draft_step_s", "verify_step_s", "host_s"))
    point = Point(
        run, step_s=Timing(0.010, 0.009, 0.011, 9), cycle_s=Timing(0.020, 0.016, 0.025, 9),
        tokens_per_cycle=3.0, **times,
    )  # fmt: skip
    where = Environment("NVIDIA H100 80GB HBM3", "2.13.0", "3.11", 1, "2026-01-01", "570")
    measurement = Measurement(where, [point])
    measurement.write(folder / "deep" / "h100.json")
    return measurement


def test_what_was_measured_is_marked_where_it_was_run(tmp_path: Path) -> None:
    measurement = measured(START, tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text(json.dumps({"kind": "calibration"}))
    found = markers_in(tmp_path)
    (marker,) = found.all
    assert marker == marker_of(measurement.points[0], measurement.environment.device)
    assert (marker.low, marker.speedup, marker.high) == pytest.approx((1.2, 1.5, 1.875))
    assert found.near(predict_scenario(changed(context=2100))) == [marker]
    for other in (
        changed(context=4096), changed(batch=2), changed(accelerator="h200-sxm"),
        changed(precision="fp8"), changed(draft="llama-3.2-3b"), changed(method="eagle-3"),
    ):  # fmt: skip
        assert found.near(predict_scenario(other)) == []


def test_a_marker_is_drawn_with_its_spread(tmp_path: Path) -> None:
    measured(START, tmp_path)
    made = explorer.speedup_vs_gamma(measurements=tmp_path, controls=("batch",))
    assert made.panel.measured.get_xydata().tolist() == [[3, pytest.approx(1.5)]]
    assert made.panel.spread.get_ydata()[:2] == pytest.approx([1.2, 1.875])
    made.controls["batch"].value = 2
    assert made.panel.measured.get_xydata().tolist() == []


def test_no_folder_is_no_matter(tmp_path: Path) -> None:
    assert markers_in(tmp_path / "nothing") == Markers(())
    assert markers_in(None) == Markers(())
    explorer.speedup_vs_gamma(measurements=tmp_path / "nothing")


# The page


def test_the_page_listens_to_this_machine_alone() -> None:
    given = page.options(8123)
    assert "--Voila.ip=127.0.0.1" in given
    assert "--port=8123" in given
    assert page.HOST == "127.0.0.1"


def test_the_page_is_one_cell_that_runs(tmp_path: Path) -> None:
    notebook = page.notebook(tmp_path)
    (cell,) = notebook["cells"]
    compile(cell["source"], "cell", "exec")
    assert "page.show" in cell["source"]


def test_the_token_is_no_setting_and_on_no_command_line() -> None:
    assert page.asked("token=abc&preset=moe&batch=16") == "preset=moe&batch=16"
    assert from_query(page.asked("token=abc")) == START
    told = page.guarded("abc", dict)
    assert told["Voila"]["token"] == "abc"
    assert told["Voila"]["tornado_settings"] == {"allow_remote_access": False}
    assert told["VoilaConfiguration"].keys() > page.GUARDED["VoilaConfiguration"].keys()
    assert not any("token" in word for word in page.options(8123))


def test_no_more_kernels_than_the_limit_start(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = pytest.importorskip("jupyter_server.services.kernels.kernelmanager")

    async def start(self: Any, **how: Any) -> str:
        await asyncio.sleep(0)  # the others come meanwhile
        if how["name"] == "broken":
            raise RuntimeError
        self._kernels[how["name"]] = None
        return how["name"]

    monkeypatch.setattr(kernels.AsyncMappingKernelManager, "start_kernel", start)
    manager = page.few_kernels(2)()

    async def ask(*names: str) -> list[str]:
        found = await asyncio.gather(
            *(manager.start_kernel(name=name) for name in names), return_exceptions=True
        )
        return [each if isinstance(each, str) else type(each).__name__ for each in found]

    async def all_of_it() -> None:
        assert await ask("broken", "broken") == ["RuntimeError"] * 2  # which takes no place
        assert await ask("a", "b", "c") == ["a", "b", "HTTPError"]
        del manager._kernels["a"]
        assert await ask("c", "d") == ["c", "HTTPError"]

    asyncio.run(all_of_it())


def test_free_ports_are_free() -> None:
    port = page.free_port()
    said: list[int] = []
    page.announce(port, lambda: said.append(1), patience_s=0.2)  # nobody listens
    assert not said
    assert 1024 <= port <= 65535


def test_what_a_page_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explore", "--preset", "mow"]) == 2
    assert "no preset is called 'mow'" in capsys.readouterr().err
    assert cli.main(["explore", "--port", "70000"]) == 2
    assert "--port must be within" in capsys.readouterr().err


def test_a_scenario_is_plain_data() -> None:
    assert json.loads(json.dumps(asdict(START)))["target"] == "llama-3.1-8b"
