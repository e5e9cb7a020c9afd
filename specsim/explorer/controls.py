"""One control for every value of a scenario, from widgets that ipywidgets 7.7 and 8 share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from specsim import catalog
from specsim.checks import SpecsimError, quoted
from specsim.checks.extras import needed
from specsim.checks.limits import require_limit
from specsim.explorer.choices import DEVICES, drafts_of
from specsim.explorer.grouping import draft_label, grouped, methods
from specsim.explorer.scenarios import MOST_OF_LOAD, PLAIN, ExplorerScenario
from specsim.operators import AUTO, PRECISIONS

with needed("the explorer", "notebooks"):
    import ipywidgets as widgets

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CONTEXTS = (
    256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768,
    49152, 65536, 98304, 131072, 196608, 262144,
)  # fmt: skip
GAMMAS = ("best", *range(17))
CROWDS = (1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
TOKENS = (16, 32, 64, 100, 200, 400, 800, 1600, 3200, 6400, 12800)
SLIDERS = ("batch", "context", "gamma", "alpha")  # dragged: axes must not move meanwhile

_WIDE = {"description_width": "8.5em"}


def control(name: str, scenario: ExplorerScenario, engines: Sequence[str] = ()) -> widgets.Widget:
    """The control of one value of a scenario, set to it. `engines` are calibration files to offer
    together with the catalog's engines."""
    value = getattr(scenario, name)
    if name == "gamma":
        value = "best" if value is None else value
    made = _BUILDERS[name](value, engines)
    if name == "draft":
        offer(made, drafts_of(scenario.target), value)
    made.layout.width = "100%"
    made.add_class("specsim-control")
    made.add_class(f"specsim-{name.replace('_', '-')}")
    return made


def read(name: str, made: widgets.Widget) -> Any:
    """The value of a control, as a scenario holds it. Raises SpecsimError for text that is not a
    survival vector."""
    if name == "gamma":
        return None if made.value == "best" else int(made.value)
    if name == "survival":
        return survival(made.value)
    return made.value


def show(name: str, made: widgets.Widget, scenario: ExplorerScenario) -> None:
    """Set a control to a scenario's value, and add the value to the choices if it is not there."""
    value = getattr(scenario, name)
    if name == "gamma":
        value = "best" if value is None else value
    if name == "survival":
        value = ", ".join(f"{s:g}" for s in value)
    if name == "draft":
        offer(made, drafts_of(scenario.target), value)
        return
    if isinstance(made, widgets.SelectionSlider | widgets.Dropdown):
        values = [option[1] if isinstance(option, tuple) else option for option in made.options]
        if value not in values:
            made.options = _with(list(made.options), value)
    made.value = value


def offer(made: widgets.Widget, choices: Sequence[Any], value: Any) -> None:
    """Set what a control of drafts offers: `choices`, and the value that it has."""
    options = [(draft_label(choice), choice) for choice in choices]
    made.options = options if value in choices else _with(options, value)
    made.value = value


def survival(text: str) -> tuple[float, ...]:
    """`0.8, 0.6, 0.5` as a vector, empty text as none. Raises SpecsimError for other text."""
    parts = [part for part in text.replace(";", ",").split(",") if part.strip()]
    require_limit("gamma", len(parts), "the number of positions in a survival vector")
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        raise SpecsimError(
            "a survival vector is numbers separated by commas, such as 0.8, 0.6, 0.5; "
            f"not {quoted(text)}"
        ) from None


def _with(options: list[Any], value: Any) -> list[Any]:
    """The options with one more, numbers in order."""
    label = f"{value:,}" if isinstance(value, int) else str(value)
    pairs = [o if isinstance(o, tuple) else (str(o), o) for o in options]
    numbers = [pair for pair in pairs if isinstance(pair[1], int | float)]
    if isinstance(value, int | float) and numbers:
        words = [pair for pair in pairs if not isinstance(pair[1], int | float)]
        return words + sorted([*numbers, (label, value)], key=lambda pair: pair[1])
    return [*pairs, (label, value)]


def _stops(label: str, stops: Sequence[Any]) -> Callable[[Any, Sequence[str]], widgets.Widget]:
    def build(value: Any, _: Sequence[str]) -> widgets.Widget:
        options = [(f"{stop:,}" if isinstance(stop, int) else stop, stop) for stop in stops]
        if value not in stops:
            options = _with(options, value)
        return widgets.SelectionSlider(
            options=options, value=value, description=label, continuous_update=True, style=_WIDE
        )

    return build


def _fraction(label: str, most: float, step: float) -> Callable[[Any, Sequence[str]], Any]:
    def build(value: Any, _: Sequence[str]) -> widgets.Widget:
        return widgets.FloatSlider(
            value=value, min=0.0, max=most, step=step, description=label, continuous_update=True,
            readout_format=".2f", style=_WIDE,
        )  # fmt: skip

    return build


def _choice(label: str, choices: Sequence[Any]) -> Callable[[Any, Sequence[str]], widgets.Widget]:
    def build(value: Any, _: Sequence[str]) -> widgets.Widget:
        options = [each if isinstance(each, tuple) else (str(each), each) for each in choices]
        if value not in [option[1] for option in options]:
            options = _with(options, value)
        return widgets.Dropdown(options=options, value=value, description=label, style=_WIDE)

    return build


def _engines(value: str, files: Sequence[str]) -> widgets.Widget:
    names = sorted(catalog.load("engines"), key=lambda name: (name != "ideal", name))
    options = [(f"{name} (the roofline)" if name == "ideal" else name, name) for name in names]
    options += [(f"calibrated: {Path(file).stem}", file) for file in files]
    if value not in [option[1] for option in options]:
        options = _with(options, value)
    return widgets.Dropdown(options=options, value=value, description="engine", style=_WIDE)


def _survival(value: tuple[float, ...], _: Sequence[str]) -> widgets.Widget:
    return widgets.Text(
        value=", ".join(f"{s:g}" for s in value), description="survival curve", style=_WIDE,
        placeholder="0.8, 0.6, … instead of α", continuous_update=False,
    )  # fmt: skip


def _limit(name: str, label: str, least: float, step: float) -> Callable[[Any, Sequence[str]], Any]:
    def build(value: Any, _: Sequence[str]) -> widgets.Widget:
        return widgets.BoundedFloatText(
            value=value, min=least, max=MOST_OF_LOAD[name], step=step, description=label,
            style=_WIDE,
        )  # fmt: skip

    return build


def _price(value: float, _: Sequence[str]) -> widgets.Widget:
    return widgets.BoundedFloatText(
        value=value, min=0.0, max=1e6, step=0.1, description="price, $/h each", style=_WIDE
    )


_BUILDERS: dict[str, Callable[[Any, Sequence[str]], widgets.Widget]] = {
    "target": _choice("target", grouped("models")),
    "method": _choice("method", (*methods(), (f"{PLAIN} (plain decoding)", PLAIN))),
    "draft": _choice("draft", ()),
    "accelerator": _choice("accelerator", grouped("accelerators")),
    "engine": _engines,
    "precision": _choice("precision", (AUTO, *PRECISIONS)),
    "batch": _stops("batch", BATCHES),
    "context": _stops("context", CONTEXTS),
    "gamma": _stops("γ", GAMMAS),
    "alpha": _fraction("α", 1.0, 0.01),
    "survival": _survival,
    "tensor_parallel": _choice("tensor parallel", DEVICES),
    "temperature": _fraction("temperature", 2.0, 0.1),
    "price_per_hour": _price,
    "users": _stops("users at a time", CROWDS),
    "rate": _limit("rate", "or requests/s", 0.0, 1.0),
    "prompt": _stops("prompt, tokens", TOKENS),
    "answer": _stops("answer, tokens", TOKENS[:9]),
    "ttft_ms": _limit("ttft_ms", "TTFT limit, ms", 1.0, 50.0),
    "tpot_ms": _limit("tpot_ms", "TPOT limit, ms", 1.0, 1.0),
}
