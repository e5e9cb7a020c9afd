"""Fits the engines' constants to the published rows and prints them for engines.toml.

    python bench/fit_engines.py

After the constants of each engine comes the median |error| of its plain steps: with these
constants, with constants fitted without the row's accelerator, and without its source. It takes
about 20 seconds and needs only NumPy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specsim import catalog
from specsim.evidence.validation.cases import passes
from specsim.evidence.validation.fitting import FITTED, fitted, fitted_on
from specsim.evidence.validation.scores import Scored, bands, scored
from specsim.evidence.validation.speculative import speculation_overhead


def main() -> None:
    cases, _ = passes()
    engines = rounded(fitted(cases, catalog.load("engines")))
    engines["vllm"]["speculation_overhead_s"] = significant(speculation_overhead(engines))
    rows = [row for row in scored(cases, engines) if row.scores]
    for engine, band in bands(rows).items():
        mine = [row for row in rows if row.case.engine == engine]
        fields = dict.fromkeys(FITTED.get(engine, ()))
        if engine == "vllm":
            fields["speculation_overhead_s"] = None
        print(f"[{quoted(engine)}]")
        for field in fields:
            print(f"{field} = {toml(engines[engine][field])}")
        print(f"error = {significant(band, 2):g}")
        print(f"points = {sum(row.case.fitted for row in mine) if engine in FITTED else 0}")
        print(f"fit_error = {significant(median(mine, 'predicted'), 2):g}")
        if engine in FITTED:
            print(f"fitted_on = {toml(fitted_on(cases, engine))}")
        print(
            f"# {len(mine)} rows: {median(mine, 'predicted'):.1%} by these constants, "
            f"{median(mine, 'without_chip'):.1%} without the accelerator, "
            f"{median(mine, 'without_source'):.1%} without the source, "
            f"{median(mine, 'ideal'):.1%} ideal\n"
        )


def median(rows: Sequence[Scored], of: str) -> float:
    return float(np.median([abs(row.error(of)) for row in rows]))


def rounded(engines: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fitted constants with three digits; more would suggest a precision that they lack."""
    found: dict[str, dict[str, Any]] = {name: dict(row) for name, row in engines.items()}
    for engine, fields in FITTED.items():
        for field in fields:
            value = found[engine][field]
            if isinstance(value, Mapping):
                found[engine][field] = {key: significant(v) for key, v in value.items()}
            else:
                found[engine][field] = significant(value)
    return found


def significant(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")


def toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{quoted(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def quoted(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else f'"{key}"'


if __name__ == "__main__":
    main()
