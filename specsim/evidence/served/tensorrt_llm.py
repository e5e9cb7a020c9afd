"""What TensorRT-LLM counts: the statistics of its iterations, and the metrics of its requests.

Sources: cpp/include/tensorrt_llm/executor/types.h (`specDecodingStats`, a record per iteration) and
its server's /perf_metrics (`speculative_decoding`, a record per request).
"""

from collections.abc import Iterable

from specsim.evidence.counters import Counters
from specsim.evidence.served.accounts import Account, printed
from specsim.evidence.served.tally import Tally
from specsim.evidence.served.text import float_of

ANSWERS = (
    "numDraftTokens", "numAcceptedTokens", "numRequestsWithDraftTokens", "acceptanceLength",
    "total_draft_tokens", "total_accepted_draft_tokens", "acceptance_rate",
)  # fmt: skip


def statistics(records: Iterable[dict[str, str]]) -> Counters | None:
    """Statistics of iterations, added: a cycle is a request with draft tokens in an iteration."""
    tally = Tally("TensorRT-LLM's statistics", "tensorrt-llm")
    for record in records:
        accepted = float_of(record, "numAcceptedTokens", "total_accepted_draft_tokens")
        drafted = float_of(record, "numDraftTokens", "total_draft_tokens")
        if accepted is None or drafted is None:
            continue
        cycles = float_of(record, "numRequestsWithDraftTokens")
        length, rate = record.get("acceptanceLength"), record.get("acceptance_rate")
        tally.add(
            Account(
                accepted=accepted,
                drafted=drafted,
                cycles=cycles,
                length=printed(length) if length and drafted else None,
                rate=printed(rate) if rate and drafted else None,
            )
        )
    return tally.total()
