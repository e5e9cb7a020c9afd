"""Records of runs as the server saw them: from its page of metrics, or from its log."""

import re

from specsim.evidence.counters import Counters
from specsim.evidence.served import logs, metrics
from specsim.evidence.served.histograms import mean_tokens, page_latencies
from specsim.evidence.served.prometheus import Page, pages
from specsim.evidence.served.record import ServedRun, mean_context
from specsim.evidence.served.text import NUMBER, segments


def from_metrics(text: str) -> list[ServedRun]:
    """The record of each engine's page in a text."""
    found = []
    for page in pages(text).values():
        counters = metrics.acceptance_of(page)
        latencies = page_latencies(page)
        tokens = mean_tokens(page)
        if counters is None and not latencies and not tokens["output_tokens"]:
            continue
        found.append(_of_page(page, counters))
    return found


def _of_page(page: Page, counters: Counters | None) -> ServedRun:
    tokens = mean_tokens(page)
    completed, reads, writes = (
        tokens[name] for name in ("completed", "input_tokens", "output_tokens")
    )
    mean_reads, mean_writes = (
        t / completed if t is not None and completed else None for t in (reads, writes)
    )
    models = page.values_of("model_name")
    return ServedRun(
        tool=f"{page.engine}'s metrics",
        engine=page.engine,
        model=next(iter(models)) if len(models) == 1 else None,
        completed=None if completed is None else int(completed),
        input_tokens=reads,
        output_tokens=writes,
        context=mean_context(mean_reads, mean_writes),
        latencies=page_latencies(page),
        counters=counters,
        cautions=(
            "Counters of a server tell no duration and no mean batch: give --batch for a "
            "prediction.",
        ),
    )


RUNNING = re.compile(rf"Avg generation throughput: ({NUMBER}) tokens/s, Running: (\d{{1,7}}) reqs")
BATCH = re.compile(
    rf"#running-req: (\d{{1,7}}), #(?:full )?token: (\d{{1,12}}).{{0,600}}?gen throughput "
    rf"\(token/s\): ({NUMBER})"
)


def from_log(text: str) -> list[ServedRun]:
    """The record in the log of a server: its acceptance, and the means of the lines that tell its
    batch and its throughput. Lines of an idle server don't count."""
    if "\r" in text:
        text = text.replace("\r", "\n")
    found = logs.acceptances(text)
    counters = logs.one_of(found) if found else None
    batches, speeds, contexts = _lines(text)
    if counters is None and not batches:
        return []
    mean = sum(batches) / len(batches) if batches else None
    tokens = sum(c * b for c, b in zip(contexts, batches, strict=False))
    return [
        ServedRun(
            tool="a server's log",
            engine=counters.engine if counters else None,
            output_tokens_per_s=sum(speeds) / len(speeds) if speeds else None,
            decoding=mean,
            context=tokens / sum(batches) if contexts else None,
            counters=counters,
        )
    ]


def _lines(text: str) -> tuple[list[float], list[float], list[float]]:
    """Running sequences, tokens per second, and (SGLang's) mean context of each busy line."""
    batches: list[float] = []
    speeds: list[float] = []
    contexts: list[float] = []
    for segment, _ in segments("Avg generation throughput: ", text):
        line = RUNNING.match(segment)
        if line and float(line[1]) > 0 and int(line[2]) > 0:
            batches.append(float(line[2]))
            speeds.append(float(line[1]))
    if batches:
        return batches, speeds, contexts
    for segment, _ in segments("#running-req: ", text):
        line = BATCH.match(segment)
        if line and int(line[1]) > 0 and float(line[3]) > 0:
            batches.append(float(line[1]))
            contexts.append(float(line[2]) / float(line[1]))
            speeds.append(float(line[3]))
    return batches, speeds, contexts
