"""Measurement files: read back as written, whole or not at all."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from specsim.checks import SpecsimError
from specsim.checks.files import write_json
from specsim.evidence.measurement import Environment, Measurement, Timing

ENVIRONMENT = Environment(
    device="a machine", torch="2.13.0", python="3.11.7", threads=2, date="2026-01-01"
)


def test_it_reads_what_it_wrote(tmp_path, point):
    measurement = Measurement(ENVIRONMENT, [point(0), point(2)], calibration="calibration.json")
    measurement.write(tmp_path / "run.json")
    assert Measurement.read(tmp_path / "run.json") == measurement


def test_the_file_has_the_keys_of_the_contract(tmp_path, point):
    Measurement(ENVIRONMENT, [point()]).write(tmp_path / "run.json")
    data = json.loads((tmp_path / "run.json").read_text())
    assert {"schema_version", "environment", "calibration", "points"} <= data.keys()
    assert {"device", "driver", "torch", "python", "threads", "date"} <= data["environment"].keys()
    (written,) = data["points"]
    assert {
        "scenario",
        "step_s",
        "draft_step_s",
        "verify_step_s",
        "cycle_s",
        "host_s",
        "survival",
        "accepted_histogram",
        "tokens_per_cycle",
        "tokens_per_s",
        "peak_memory_bytes",
        "synthetic_acceptance",
        "notes",
    } <= written.keys()
    assert {
        "target",
        "draft",
        "precision",
        "method",
        "gamma",
        "rule",
        "temperature",
        "batch",
        "context",
        "allocated_context",
        "mode",
        "seed",
    } <= written["scenario"].keys()
    assert written["step_s"].keys() == {"median", "p10", "p90", "n"}


def test_a_file_from_before_the_suites_is_read(tmp_path, point):
    file = tmp_path / "run.json"
    Measurement(ENVIRONMENT, [point()]).write(file)
    data = json.loads(file.read_text())
    for key in ("name", "part", "reserved", "drift"):
        del data["points"][0][key]
    file.write_text(json.dumps(data))
    (old,) = Measurement.read(file).points
    assert (old.name, old.part, old.reserved, old.drift) == ("", "", False, None)


def test_a_file_from_before_several_devices_is_read_as_of_one(tmp_path, point):
    Measurement(ENVIRONMENT, [point()]).write(tmp_path / "run.json")
    data = json.loads((tmp_path / "run.json").read_text())
    scenario = data["points"][0]["scenario"]
    assert scenario.pop("tensor_parallel") == scenario.pop("draft_tensor_parallel") == 1
    write_json(tmp_path / "old.json", data)
    assert Measurement.read(tmp_path / "old.json").points == [point()]
    scenario["tensor_parallel"] = 0
    write_json(tmp_path / "wrong.json", data)
    with pytest.raises(SpecsimError, match="scenario: tensor_parallel"):
        Measurement.read(tmp_path / "wrong.json")


def test_percentiles_of_samples():
    timing = Timing.of([float(n) for n in range(101)])
    assert timing == Timing(50.0, 10.0, 90.0, 101)
    assert Timing.of([3.0]) == Timing(3.0, 3.0, 3.0, 1)
    assert Timing.of([]) is None


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, point):
    file = tmp_path / "run.json"
    Measurement(ENVIRONMENT, [point(0)]).write(file)
    before = file.read_text()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Measurement(ENVIRONMENT, [point(0), point(2)]).write(file)
    assert file.read_text() == before


def test_a_point_is_added_to_what_is_there(tmp_path, point):
    file = tmp_path / "new" / "run.json"
    one, other = Measurement(ENVIRONMENT), Measurement(ENVIRONMENT, calibration="calibration.json")
    one.add_to(file, point(0, name="a"))
    other.add_to(file, point(1, name="b"))
    one.add_to(file, point(2, name="a"))  # the newer of one name
    assert Measurement.read(file).points == [point(2, name="a"), point(1, name="b")] == one.points
    other.add_to(file, point(3))  # without a name the conditions count
    other.add_to(file, point(3, notes="again"))
    assert [each.notes for each in Measurement.read(file).points] == ["", "", "again"]
    elsewhere = Measurement(replace(ENVIRONMENT, device="another"))
    with pytest.raises(SpecsimError, match="was measured on a machine, not on another"):
        elsewhere.add_to(file, point(1, name="b"))


ADDER = """
import sys
from dataclasses import replace
from specsim.evidence.measurement import Measurement
measurement = Measurement.read(sys.argv[1])
(like,) = measurement.points[:1]
for i in range(int(sys.argv[3])):
    measurement.add_to(sys.argv[1], replace(like, name=f"{sys.argv[2]}-{i}"))
    measurement.add_to(sys.argv[1], replace(like, name="both", notes=sys.argv[2]))
"""


def test_two_processes_that_measure_into_one_file_lose_nothing(tmp_path, point):
    file, rounds = tmp_path / "run.json", 15
    Measurement(ENVIRONMENT, [point(2, name="first")]).write(file)
    command = [sys.executable, "-c", ADDER, str(file)]
    runs = [subprocess.Popen([*command, name, str(rounds)]) for name in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    names = [each.name for each in Measurement.read(file).points]
    expected = ["first", "both", *(f"{name}-{i}" for name in "ab" for i in range(rounds))]
    assert sorted(names) == sorted(expected)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SpecsimError, match="cannot write"):
        write_json(blocked / "run.json", {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("{}", "not a measurement file"),
        ('{"schema_version": 99}', "schema_version 99"),
        (
            '{"schema_version": 1, "points": [{}], "environment": {}, "calibration": null}',
            "not a meas",
        ),
    ],
)
def test_a_file_that_is_no_measurement_is_refused(tmp_path, text, says):
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(SpecsimError, match=says) as caught:
        Measurement.read(file)
    assert "run.json" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SpecsimError, match="nothing"):
        Measurement.read(tmp_path / "nothing.json")


BAD_FIELDS = [
    ("points.0.drift", 0),
    ("points.0.drift", "fast"),
    ("points.0.step_s.median", -1),
    ("points.0.step_s.median", 1e-320),
    ("points.0.cycle_s.p90", "x"),
    ("points.0.cycle_s.n", 0),
    ("points.0.host_s", [1, 2, 3]),
    ("points.0.verify_step_s.p10", None),
    ("points.0.tokens_per_cycle", 0.5),
    ("points.0.tokens_error", -0.1),
    ("points.0.survival", "0.5"),
    ("points.0.survival", [2]),
    ("points.0.calibration_survival", [0.5, 0.7]),
    ("points.0.accepted_histogram", [-1]),
    ("points.0.reserved", "no"),
    ("points.0.name", 3),
    ("points.0.surprise", 1),
    ("points.0.scenario.gamma", 2.5),
    ("points.0.scenario.gamma", 10**9),
    ("points.0.scenario.batch", 0),
    ("points.0.scenario.temperature", -1),
    ("points.0.scenario.precision", None),
    ("points.0.scenario.target", None),
    ("points.0.scenario.target.num_layers", 10**12),
    ("points.0.scenario.target.tied_head", "yes"),
    ("points.0.scenario.target.norm_eps", []),
    ("points.0.scenario.draft.rope_scaling.factor", {}),
    ("points.0", None),
    ("points", {}),
    ("environment.threads", "two"),
    ("environment.device", 7),
    ("environment", None),
    ("calibration", 5),
]


@pytest.mark.parametrize(("place", "value"), BAD_FIELDS)
def test_a_field_of_the_wrong_kind_is_refused_by_name(place, value, tmp_path, point):
    file = tmp_path / "run.json"
    Measurement(Environment("cpu", "2", "3", 2, "today"), [point()]).write(file)
    data = json.loads(file.read_text())
    *way, last = place.split(".")
    inside = data
    for key in way:
        inside = inside[int(key) if key.isdigit() else key]
    inside[int(last) if last.isdigit() else last] = value
    file.write_text(json.dumps(data))
    with pytest.raises(SpecsimError) as refused:
        Measurement.read(file)
    assert "\n" not in str(refused.value)
    named = last if not last.isdigit() else f"point {last}"
    assert named in str(refused.value)
    assert str(file) in str(refused.value)
