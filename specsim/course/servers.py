"""What `make bench-servers` wrote: real servers, measured and predicted, for notebook 10."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specsim.checks import Floats
from specsim.checks.files import read_json

NAMES = {"decoder": "the decoder, no server", "ours": "our server", "vLLM": "vLLM"}
STORED = Path(__file__).parents[2] / "measurements" / "servers-cpu-2core.json"


@dataclass(frozen=True, slots=True)
class MeasuredServers:
    """Tokens per second of all streams together, by who, gamma and streams."""

    document: Mapping[str, Any]
    rows: Mapping[tuple[str, int, int], Mapping[str, Any]]

    @property
    def gamma(self) -> int:
        """Drafts per cycle where there is a draft."""
        return int(self.document["gamma"])

    @property
    def streams(self) -> list[int]:
        """The loads: streams at a time."""
        return sorted({count for _, _, count in self.rows})

    def speeds(self, who: str, gamma: int, key: str = "tokens_per_s") -> Floats:
        """Tokens per second, measured or `predicted`, of every load."""
        return np.array([self.rows[who, gamma, count][key] for count in self.streams])

    def ratios(self, one: str, other: str) -> Floats:
        """The measured speed of one over the other: every load, plain and with a draft."""
        return np.concatenate(
            [self.speeds(one, g) / self.speeds(other, g) for g in (0, self.gamma)]
        )

    def errors(self, who: str) -> Floats:
        """predicted / measured - 1 of every load."""
        return np.concatenate(
            [self.speeds(who, g, "predicted") / self.speeds(who, g) - 1 for g in (0, self.gamma)]
        )

    def speedups(self, who: str, key: str = "tokens_per_s") -> Floats:
        """What the draft gains at every load, measured or `predicted`."""
        return self.speeds(who, self.gamma, key) / self.speeds(who, 0, key)

    def table(self) -> str:
        """The measured speeds in Markdown."""
        counts = " | ".join(map(str, self.streams))
        lines = [f"| streams | {counts} |", f"|---|{'---|' * len(self.streams)}"]
        for who, name in NAMES.items():
            for gamma in (0, self.gamma):
                cells = " | ".join(f"{speed:.0f}" for speed in self.speeds(who, gamma))
                lines.append(f"| {name}, {f'γ = {gamma}' if gamma else 'plain'} | {cells} |")
        return "\n".join(lines)

    def curves(self, who: str) -> list[Any]:
        """Predicted lines with measured markers, for `figures.curves`."""
        from specsim import figures

        return [
            figures.Curve(
                f"γ = {gamma}" if gamma else "plain",
                self.streams,
                self.speeds(who, gamma, "predicted"),
                concept,
                measured=[
                    (n, *(self.rows[who, gamma, n][key] for key in ("tokens_per_s", "low", "high")))
                    for n in self.streams
                ],
            )
            for gamma, concept in ((0, "plain"), (self.gamma, "speedup"))
        ]


def measured_servers(file: str | Path = STORED) -> MeasuredServers:
    """The stored comparison of servers. Raises SpecsimError if the file cannot be read."""
    document = read_json(file)
    rows = {(row["who"], row["gamma"], row["streams"]): row for row in document["rows"]}
    return MeasuredServers(document, rows)


def geometric_mean(values: Floats) -> float:
    """The mean of ratios."""
    return float(np.exp(np.log(values).mean()))
