"""The latency of a slider: `specsim explore` in a real, headless browser.

The time from a key on the slider to the frame that shows both main pictures (the roofline, and
speedup against gamma) is measured inside the page, one key at a time. The shares of the model, of
drawing and of encoding are measured without a browser. The first part is skipped, with a message,
if chromium and its driver are not installed (`make test-browser` installs them).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from specsim.explorer.figure_canvas import FigureCanvas, encode
from specsim.explorer.panels import (
    RooflinePanel,
    SpeedupMapPanel,
    SpeedupVsGammaPanel,
    WaterfallPanel,
)
from specsim.explorer.panels.roofline import points
from specsim.explorer.scenarios import START, ExplorerScenario, changed, predict_scenario
from specsim.explorer.under_load import compare, serve

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))
import driving

GOAL_MEDIAN_MS, GOAL_P95_MS, GOAL_MODEL_SHARE = 55.0, 110.0, 0.10
BATCHES = (2, 3, 4, 6, 8, 12, 16, 24, 32)


def per_move_ms(call: Callable[[ExplorerScenario], object], repeats: int) -> float:
    """The median over moves of the batch."""
    taken = []
    for _ in range(repeats):
        for batch in BATCHES:
            start = time.perf_counter()
            call(changed(batch=batch))
            taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def in_process(repeats: int) -> dict[str, float]:
    """The time of a move without a browser, in milliseconds."""
    roof, curve = FigureCanvas(RooflinePanel()), FigureCanvas(SpeedupVsGammaPanel())
    slower = [FigureCanvas(SpeedupMapPanel()), FigureCanvas(WaterfallPanel())]

    def model(scenario: ExplorerScenario) -> None:
        scenario = predict_scenario(scenario)
        points(scenario)

    def main(scenario: ExplorerScenario) -> None:
        scenario = predict_scenario(scenario)
        roof.png(scenario)
        curve.png(scenario)

    def other(scenario: ExplorerScenario) -> None:
        scenario = predict_scenario(scenario)
        for canvas in slower:
            canvas.png(scenario)

    def many_users(scenario: ExplorerScenario) -> None:
        shown = predict_scenario(replace(scenario, users=scenario.batch))
        compare(shown, serve(shown))

    main(changed(batch=32))
    main(START)
    return {
        "model": per_move_ms(model, repeats),
        "map": per_move_ms(lambda s: SpeedupMapPanel().grid(predict_scenario(s)), 1),
        "two main pictures": per_move_ms(main, repeats),
        "of that encoding": 2 * per_move_ms(lambda _: encode(roof.agg), repeats),
        "two other pictures": per_move_ms(other, repeats),
        "many users, at rest": per_move_ms(many_users, 1),
    }


def in_browser(moves: int) -> dict[str, float]:
    """The time from a key to pixels, in milliseconds, and to the first pictures, in seconds."""
    start = time.monotonic()
    with driving.served() as address:
        answered_s = time.monotonic() - start
        with driving.browser(1280, 900, address) as window:
            painted_s = driving.visit(window, address)
            driving.latencies_ms(window, ("batch",), 4)  # the first moves pay for imports
            found = sorted(driving.latencies_ms(window, ("batch", "context"), moves))
    return {
        "median": statistics.median(found),
        "p95": found[int(0.95 * (len(found) - 1))],
        "moves": len(found),
        "served_s": answered_s,
        "first_pictures_s": painted_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=48, help="of each of two sliders")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    parts = in_process(options.repeats)
    for name, ms in parts.items():
        print(f"{name:22s}{ms:8.2f} ms")
    absent = driving.missing()
    if absent is not None:
        print(f"in a browser: not measured, {absent}")
        print(json.dumps({"in_process_ms": parts, "browser": None}))
        return
    seen = in_browser(options.moves)
    share = parts["model"] / seen["median"]
    print(f"the page answers after {seen['served_s']:.1f} s", end=", ")
    print(f"its first pictures are there {seen['first_pictures_s']:.1f} s later")
    for name, reached, goal, unit in (
        ("slider to pixels, median", seen["median"], GOAL_MEDIAN_MS, "ms"),
        ("slider to pixels, p95", seen["p95"], GOAL_P95_MS, "ms"),
        ("of that the model", 100 * share, 100 * GOAL_MODEL_SHARE, "%"),
    ):
        met = "met" if reached < goal else "MISSED"
        print(f"{name:26s}{reached:8.1f} {unit}   goal below {goal:g} {unit}: {met}")
    print(json.dumps({"in_process_ms": parts, "browser": seen, "model_share": share}))


if __name__ == "__main__":
    main()
