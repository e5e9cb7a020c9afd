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
from specsim.evidence.validation.overheads import CENTRES, speculated_on, with_overheads
from specsim.evidence.validation.scores import Scored, bands, scored, verification_bands
from specsim.evidence.validation.speculation_scores import scored_speedups, speedup_bands
from specsim.evidence.validation.speedups import published_speedups


def main() -> None:
    cases, _ = passes()
    of_speedups, _ = published_speedups()
    engines = rounded(fitted(cases, catalog.load("engines")))
    engines = rounded(with_overheads(engines, of_speedups))
    every = scored(cases, engines)
    rows, of_several = [row for row in every if row.scores], verification_bands(every)
    of_passes, of_gains = bands(rows), speedup_bands(scored_speedups(of_speedups, engines))
    for engine in dict.fromkeys((*of_passes, *CENTRES, *engines)):
        if engine == "ideal":
            continue  # the definition has no band
        mine = [row for row in rows if row.case.engine == engine]
        print(f"[{quoted(engine)}]")
        for field in (*FITTED.get(engine, ()), *CENTRES.get(engine, ())):
            print(f"{field} = {toml(engines[engine][field])}")
        for name, width in zip(
            ("low", "high"), of_gains.get(engine, of_gains["assumed"]), strict=True
        ):
            print(f"speedup_{name} = {significant(width, 2):g}")
        if kinds := speculated_on(of_speedups, engine):
            print(f"speculated_on = {toml(kinds)}")
        if engine in of_several:
            print(f"verification_error = {significant(of_several[engine], 2):g}")
        if mine:
            print(f"error = {significant(of_passes[engine], 2):g}")
            print(f"points = {sum(row.case.fitted for row in mine) if engine in FITTED else 0}")
            print(f"fit_error = {significant(median(mine, 'predicted'), 2):g}")
            if engine in FITTED:
                print(f"fitted_on = {toml(fitted_on(cases, engine))}")
            print(
                f"# {len(mine)} rows: {median(mine, 'predicted'):.1%} by these constants, "
                f"{median(mine, 'without_chip'):.1%} without the accelerator, "
                f"{median(mine, 'without_source'):.1%} without the source, "
                f"{median(mine, 'ideal'):.1%} ideal"
            )
        print()


def median(rows: Sequence[Scored], of: str) -> float:
    return float(np.median([abs(row.error(of)) for row in rows]))


def rounded(engines: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fitted constants with three digits; more would suggest a precision that they lack."""
    found: dict[str, dict[str, Any]] = {name: dict(row) for name, row in engines.items()}
    for engine in found:
        for field in (*FITTED.get(engine, ()), *CENTRES.get(engine, ())):
            if field not in found[engine]:
                continue
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
