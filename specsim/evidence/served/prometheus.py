"""Pages of counters in Prometheus' text format: one scrape, or several whose counters are
subtracted.

A counter that comes again begins a new scrape. Between two scrapes a counter may only grow; if all
of a page's counters fell, the server was restarted; if some fell and some grew, the page
contradicts itself.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from specsim.checks import SpecsimError, quoted
from specsim.checks.limits import require_limit
from specsim.evidence.served.text import NUMBER

ENGINES = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "trtllm": "tensorrt-llm"}
SAMPLE = re.compile(
    rf"^(vllm|sglang|llamacpp|trtllm|process)[:_]([A-Za-z0-9_]{{1,200}})(?:\{{([^}}\n]{{0,4000}})\}})?"
    rf"[ \t]{{1,20}}({NUMBER}|[Nn]a[Nn]|[-+]?Inf)(?=\s|$)",
    re.MULTILINE,
)
LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]{0,100})="([^"\n]{0,2000})"')
COUNTS = ("_total", "_sum", "_count", "_bucket", "_created")
WATCHED = ("spec_decode_num_", "spec_verify_calls")  # what tells a restart
Series = tuple[str, str]  # a name without its prefix, and its labels
STARTED: Series = ("spec_decode_num_process_created", "")  # as the time when a counter was made


@dataclass(slots=True)
class Page:
    """What one engine's page counted: growth of counters, last values of gauges.

    `scrapes` is their number; with one, `growth` is since the start of the server. `restarts` are
    those seen between the scrapes.
    """

    engine: str
    scrapes: int = 1
    restarts: int = 0
    growth: dict[Series, float] = field(default_factory=dict)
    gauges: dict[Series, float] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)

    def named(self, *names: str) -> dict[str, float]:
        """The growth of the counter with the first of `names` that the page has, by labels."""
        for name in names:
            found = {labels: value for (held, labels), value in self.growth.items() if held == name}
            if found:
                return found
        return {}

    def total(self, *names: str) -> float | None:
        """The sum of `named` over all labels; None if there is no such counter."""
        found = self.named(*names)
        return sum(found.values()) if found else None

    def gauge(self, name: str) -> list[float]:
        """The last values of a gauge, over all labels."""
        return [value for (held, _), value in self.gauges.items() if held == name]

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The growth of a counter, added by the value of one label."""
        found: dict[str, float] = {}
        for labels, value in self.named(name).items():
            place = dict(LABEL.findall(labels)).get(label)
            if place is not None:
                found[place] = found.get(place, 0.0) + value
        return found

    def values_of(self, label: str) -> set[str]:
        """The values of one label, over all series."""
        series: Iterable[Series] = (*self.growth, *self.gauges)
        return {
            found
            for _, labels in series
            if (found := dict(LABEL.findall(labels)).get(label)) is not None
        }


def pages(text: str) -> dict[str, Page]:
    """The pages in a text, by engine. Raises SpecsimError for a counter that is no number, and for
    scrapes that contradict each other."""
    if not any(f"{prefix}{mark}" in text for prefix in ENGINES for mark in ":_"):
        return {}
    readers: dict[str, _Reader] = {}
    started = ""  # when the server's process was: told once, before the engine's own metrics
    for count, (prefix, name, labels, value) in enumerate(_samples(text)):
        if count % 100_000 == 99_999:
            require_limit("log_lines", count, "the samples in the log")
        if prefix == "process":
            if name == "start_time_seconds":
                started = value
                for reader in readers.values():
                    reader.take(STARTED, value)
            continue
        if prefix not in readers:
            readers[prefix] = _Reader(Page(ENGINES[prefix]))
            if started:
                readers[prefix].take(STARTED, started)
        reader = readers[prefix]
        reader.take((name, labels or ""), value)
    return {prefix: reader.finished() for prefix, reader in readers.items()}


def _samples(text: str) -> Iterable[tuple[str, str, str, str]]:
    for match in SAMPLE.finditer(text):
        yield match[1], match[2], match[3], match[4]


@dataclass(slots=True)
class _Reader:
    """Reads the samples of one engine, a scrape at a time."""

    page: Page
    now: dict[Series, float] = field(default_factory=dict)
    before: dict[Series, float] | None = None
    counters: dict[str, bool] = field(default_factory=dict)  # whether a name is a counter's

    def take(self, series: Series, text: str) -> None:
        """Take one sample; one that the scrape has already begins the next scrape."""
        value = float(text)
        name = series[0]
        is_counter = self.counters.get(name)
        if is_counter is None:
            is_counter = name.endswith(COUNTS) or name.startswith(WATCHED)
            self.counters[name] = is_counter
        if not is_counter:
            if abs(value) < float("inf"):
                self.page.gauges[series] = value  # the last one counts
            return
        if not 0 <= value <= 1e18:
            raise SpecsimError(f"the counter {quoted(name)} is {text}: a counter is a number >= 0")
        if series in self.now:
            self._end_of_scrape()
            self.page.scrapes += 1
        self.now[series] = value

    def _end_of_scrape(self) -> None:
        """Add what the counters grew since the scrape before."""
        now = {series: v for series, v in self.now.items() if not series[0].endswith("_created")}
        if self.before is not None:
            restarted = self._restarted()
            self.page.restarts += restarted
            base = {} if restarted else self.before
            for series, value in now.items():
                grown = max(0.0, value - base.get(series, 0.0))
                self.page.growth[series] = self.page.growth.get(series, 0.0) + grown
        self.before, self.now = self.now, {}

    def _restarted(self) -> bool:
        """Whether the server was restarted between two scrapes."""
        assert self.before is not None
        watched = [
            series for series in self.now
            if series in self.before and series[0].startswith(WATCHED)
        ]  # fmt: skip
        created = [series for series in watched if series[0].endswith("_created")]
        counted = [series for series in watched if not series[0].endswith("_created")]
        fell = [series for series in counted if self.now[series] < self.before[series]]
        rose = [series for series in counted if self.now[series] > self.before[series]]
        if created and all(self.now[series] != self.before[series] for series in created):
            return True
        if not fell:
            return False
        if created or rose:
            why = "fell, though the server was not restarted" if created else "fell and others grew"
            raise SpecsimError(
                f"between two scrapes the counter {quoted(fell[0][0])} {why}: the scrapes are of "
                "different servers, or not in their order; give two scrapes of one server"
            )
        return True

    def finished(self) -> Page:
        """The page, after the last sample."""
        page = self.page
        last = {series: v for series, v in self.now.items() if not series[0].endswith("_created")}
        if self.before is None:
            page.growth = last
        else:
            self._end_of_scrape()
            watched = [s for s in page.growth if s[0].startswith(WATCHED)]
            if watched and not any(page.growth[series] for series in watched):
                page.growth = last
                page.cautions.append(
                    "Nothing was drafted between the scrapes: the counts are those since the start "
                    "of the server."
                )
            elif page.restarts:
                page.cautions.append(
                    f"The counters fell {page.restarts} times between the scrapes: the server was "
                    "restarted, and what was counted between the last scrape before a restart and "
                    "the restart is missing."
                )
        return page
