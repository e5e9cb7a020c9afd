"""What a client measured, as arrays with an entry per request; the whole run in vLLM's names.

Latencies follow vLLM's benchmark (vllm/benchmarks/serve.py): TTFT from sending to the first chunk;
ITL between two chunks; TPOT of a request, (last chunk - first chunk) / (tokens - 1), where there is
more than one token; E2EL from sending to the last chunk. Failed requests are in no mean.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from specsim.checks import Floats, Integers, SpecsimError
from specsim.evidence.client.answers import StreamedAnswer
from specsim.evidence.client.overhead import Overhead
from specsim.evidence.client.sending import ClientLoad
from specsim.evidence.counters import Counters

USAGE, TEXT, CHUNKS = "usage", "text", "chunks"  # who counted the tokens of the answers
STATISTICS = ("mean", "median", "std", "p90", "p95", "p99")
METRICS = ("ttft", "tpot", "itl", "e2el")
SLO_METRICS = ("ttft", "tpot", "e2el")
NEAR = 0.02  # relative: a usage below the chunks with text by more than this is wrong
FEWEST = 0.9  # share of the tokens in the text below which a usage is wrong


@dataclass(frozen=True, eq=False, kw_only=True)
class RunArrays:
    """What a run measured. Arrays have an entry for each request that was sent, in the order of
    sending.

    Seconds; NaN where a request failed. `tokens` are those of its answer, by the count that
    `counted_by` names. `text_tokens` are counted in the text by a tokenizer, where one was given.
    `stopped` says why the run ended early, None where it did not. `busy` is the share of one core
    that the client took. `cautions` are sentences on how it was asked.
    """

    url: str
    model: str
    chat: bool
    load: ClientLoad
    answers: tuple[StreamedAnswer, ...]
    duration_s: float
    begun_s: float = 0.0
    slo: Mapping[str, float] = field(default_factory=dict)
    text_tokens: Integers | None = None
    tokenizer: str | None = None
    prompts: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)
    stopped: str | None = None
    engine: str | None = None
    counters: Counters | None = None
    counted: Mapping[str, float] = field(default_factory=dict)
    overhead: Overhead | None = None
    busy: float | None = None
    cautions: tuple[str, ...] = ()
    date: str = field(default_factory=lambda: time.strftime("%Y%m%d-%H%M%S"))

    def __len__(self) -> int:
        return len(self.answers)

    # ------------------------------------------------------------------- arrays per request

    @cached_property
    def completed(self) -> np.ndarray:
        """Which requests were answered to the end."""
        return np.array([each.completed for each in self.answers], dtype=bool)

    @cached_property
    def cut(self) -> np.ndarray:
        """Which requests were on their way when the run was ended early."""
        return np.array([each.error == "" for each in self.answers], dtype=bool)

    @property
    def errors(self) -> list[str]:
        """Why each request failed; "" for one that did not."""
        return [each.error or ("cut off" if c else "")
                for each, c in zip(self.answers, self.cut.tolist(), strict=True)]  # fmt: skip

    @cached_property
    def failures(self) -> dict[str, int]:
        """Failed requests by their reason, the most frequent first."""
        return dict(Counter(each.error for each in self.answers if each.error).most_common())

    @property
    def sent_s(self) -> Floats:
        """When each was sent, from the start of the run."""
        return np.array([each.sent_s for each in self.answers]) - self.begun_s

    @property
    def waited_s(self) -> Floats:
        """How long each waited in the client after it was due."""
        return np.array([max(0.0, each.sent_s - each.due_s) for each in self.answers])

    @cached_property
    def ttft_s(self) -> Floats:
        """From sending to the first chunk."""
        return self._of_completed(lambda each: each.at_s[0] - each.sent_s)

    @cached_property
    def first_text_s(self) -> Floats:
        """From sending to the first chunk with text in it; NaN for an answer without text."""
        return self._of_completed(
            lambda e: math.nan if e.first_text_s is None else e.first_text_s - e.sent_s
        )

    @cached_property
    def e2el_s(self) -> Floats:
        """From sending to the last chunk."""
        return self._of_completed(lambda each: each.at_s[-1] - each.sent_s)

    @cached_property
    def itl_s(self) -> list[Floats]:
        """The gaps between the chunks of each request; none of a failed one."""
        return [np.diff(e.at_s) if e.completed else np.zeros(0) for e in self.answers]

    @cached_property
    def tpot_s(self) -> Floats:
        """Seconds per token after the first; NaN for an answer of one token too."""
        more = self.tokens - 1.0
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(more > 0, (self.e2el_s - self.ttft_s) / more, np.nan)

    @cached_property
    def usage(self) -> Floats:
        """Tokens of each answer as the server's usage counts them; NaN where it does not."""
        return np.array([math.nan if e.usage_output is None else e.usage_output
                         for e in self.answers])  # fmt: skip

    @cached_property
    def chunks(self) -> Integers:
        """Chunks of each answer."""
        return np.array([len(each.at_s) for each in self.answers], dtype=np.int64)

    @cached_property
    def text_chunks(self) -> Integers:
        """Chunks of each answer that carry text."""
        return np.array([each.text_chunks for each in self.answers], dtype=np.int64)

    @cached_property
    def input_tokens(self) -> Integers:
        """Tokens of each prompt: the server's count, or else what was asked for."""
        return np.array([e.asked_input if e.usage_input is None else e.usage_input
                         for e in self.answers], dtype=np.int64)  # fmt: skip

    @cached_property
    def counted_by(self) -> str:
        """Whose count the tokens are: `usage`, unless there is none or it cannot be right, because
        more chunks carry text or the text has many more tokens; then `text` where a tokenizer was
        given, else `chunks`."""
        told = self.completed & np.isfinite(self.usage)
        total, text = self.usage[told].sum(), self.text_tokens
        enough = total >= (1 - NEAR) * self.text_chunks[told].sum()
        if told.any() and enough and (text is None or total >= FEWEST * text[told].sum()):
            return USAGE
        return CHUNKS if text is None else TEXT

    @cached_property
    def tokens(self) -> Integers:
        """Tokens of each answer; 0 of a failed one."""
        found = np.maximum(self.text_chunks, 1)
        if self.text_tokens is not None:
            found = np.maximum(self.text_tokens, 1)
        if self.counted_by == USAGE:
            found = np.where(np.isfinite(self.usage), np.nan_to_num(self.usage), found)
        return np.where(self.completed, found, 0).astype(np.int64)

    def _of_completed(self, value: Any) -> Floats:
        return np.array([value(e) if e.completed else math.nan for e in self.answers], dtype=float)

    # ------------------------------------------------------------------------ the whole run

    @property
    def chunk_times_s(self) -> Floats:
        """The gaps between chunks of all requests."""
        return np.concatenate([*self.itl_s, np.zeros(0)])

    @property
    def good(self) -> np.ndarray:
        """Which requests kept to the SLO; one of one token has a TPOT of 0."""
        of_request = {"ttft": self.ttft_s, "tpot": np.nan_to_num(self.tpot_s), "e2el": self.e2el_s}
        good = self.completed
        for name, most in self.slo.items():
            good = good & (np.nan_to_num(of_request[name], nan=math.inf) * 1e3 <= most)
        return good

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run in the names of vLLM's benchmark; None for what is not known."""
        completed, failed = int(self.completed.sum()), sum(self.failures.values())
        read = int(self.input_tokens[self.completed].sum())
        written = int(self.tokens.sum())
        most_tokens, most_requests = self._peaks()

        def rate(amount: float) -> float:
            return amount / self.duration_s if self.duration_s > 0 else 0.0

        return {
            "num_prompts": len(self.load.arrival_s),
            "request_rate": self.load.rate if math.isfinite(self.load.rate) else "inf",
            "burstiness": self.load.burstiness if math.isfinite(self.load.burstiness) else "inf",
            "max_concurrency": self.load.concurrency,
            "duration": self.duration_s,
            "completed": completed,
            "failed": failed,
            "cut_off": int(self.cut.sum()),
            "unsent": len(self.load.arrival_s) - len(self.answers),
            "total_input_tokens": read,
            "total_output_tokens": written,
            "request_throughput": rate(completed),
            "request_goodput": rate(int(self.good.sum())) if self.slo else None,
            "output_throughput": rate(written),
            "total_token_throughput": rate(read + written),
            "max_output_tokens_per_s": most_tokens,
            "max_concurrent_requests": most_requests,
            **self._speculation(),
            **statistics_of("ttft", self.ttft_s),
            **statistics_of("tpot", self.tpot_s),
            "itl_convention": "chunk_gap",
            **statistics_of("itl", self.chunk_times_s),
            **statistics_of("e2el", self.e2el_s),
        }

    def _peaks(self) -> tuple[float, int]:
        """vLLM's peaks: chunks in the fullest second (it calls them tokens), and requests that were
        on their way in the fullest second, whole seconds from the first request."""
        done = [each for each in self.answers if each.completed]
        if not done:
            return 0.0, 0
        first = min(each.sent_s for each in done)
        seconds = math.ceil(max(each.at_s[-1] for each in done) - first) + 1
        if seconds > 10_000_000:
            return 0.0, 0
        tokens, requests = np.zeros(seconds), np.zeros(seconds + 1)
        for each in done:
            at = (np.frombuffer(each.at_s) - first).astype(np.int64)
            np.add.at(tokens, at, 1)
            requests[int(each.sent_s - first)] += 1
            requests[int(at[-1]) + 1] -= 1
        return float(tokens.max()), int(requests.cumsum().max())

    def _speculation(self) -> dict[str, Any]:
        """The acceptance between two scrapes of the server's counters, in vLLM's names."""
        found = self.counters
        if found is None:
            return {}
        length, rate = found.tokens_per_cycle, found.accepted_per_drafted
        if found.accepted is not None and found.cycles:
            length = 1.0 + found.accepted / found.cycles
        if found.accepted is not None and found.drafted:
            rate = found.accepted / found.drafted
        values = {
            "num_drafts": found.cycles, "draft_tokens": found.drafted,
            "accepted_tokens": found.accepted, "acceptance_length": length,
            "acceptance_rate": None if rate is None else 100.0 * rate,
            "per_position_acceptance_rates": None if found.survival is None
            else list(found.survival),
        }  # fmt: skip
        return {f"spec_decode_{name}": v for name, v in values.items() if v is not None}

    @cached_property
    def token_counts(self) -> dict[str, float | None]:
        """The tokens of all answers: by the server's usage, by chunks with text, in the text by a
        tokenizer, and by the server's own counter; None for a count that there is not."""
        done = self.completed
        told = done & np.isfinite(self.usage)
        text = None if self.text_tokens is None else int(self.text_tokens[done].sum())
        return {
            USAGE: int(self.usage[told].sum()) if told.any() else None,
            CHUNKS: int(self.text_chunks[done].sum()),
            TEXT: text,
            "server": self.counted.get("output_tokens"),
        }

    @property
    def client(self) -> dict[str, float | None]:
        """What the client itself took: seconds to the first chunk of a server that answers at once,
        chunks per second that it can take, those of this run, and its share of one core."""
        own = self.overhead
        rate = int(self.chunks.sum()) / self.duration_s if self.duration_s > 0 else None
        return {
            "first_chunk_s": None if own is None else own.first_s,
            "most_chunks_per_s": None if own is None else own.chunks_per_s,
            "chunks_per_s": rate,
            "busy": self.busy,
        }


def statistics_of(name: str, seconds: Floats) -> dict[str, float | None]:
    """vLLM's statistics of one latency, in milliseconds; None where nothing was measured."""
    seconds = seconds[np.isfinite(seconds)]
    if not len(seconds):
        return {f"{key}_{name}_ms": None for key in STATISTICS}
    percentiles = np.percentile(seconds, [50, 90, 95, 99])
    values = (seconds.mean(), percentiles[0], seconds.std(), *percentiles[1:])
    return {f"{key}_{name}_ms": float(v) * 1e3 for key, v in zip(STATISTICS, values, strict=True)}


def require_slo(slo: Mapping[str, float] | None) -> dict[str, float]:
    """Limits in milliseconds by `ttft`, `tpot` or `e2el`; SpecsimError for any other."""
    for name, most in (slo or {}).items():
        if name not in SLO_METRICS or not 0 < most < 1e9:
            raise SpecsimError(
                f"an SLO is milliseconds above 0 of {', '.join(SLO_METRICS)}, got {name}: {most!r}"
            )
    return dict(slo or {})
