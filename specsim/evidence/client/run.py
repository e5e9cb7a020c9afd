"""One run of a client against a server: its record, its file, what is doubtful about it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from specsim.evidence.client.arrays import RunArrays
from specsim.evidence.client.findings import findings_of
from specsim.evidence.served import ServedRun, bench


@dataclass(frozen=True, eq=False, kw_only=True)
class ServerRun(RunArrays):
    """A run with its findings; written as `vllm bench serve` writes it."""

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """What is doubtful about the run, a sentence each."""
        return findings_of(self)

    @property
    def served_run(self) -> ServedRun:
        """The record that `specsim compare --results` makes of the file.

        Raises SpecsimError if no request was answered.
        """
        return bench.run(self.to_json(), bench.CLIENT)

    def to_json(self, detailed: bool = False) -> dict[str, Any]:
        """The run as `vllm bench serve --save-result` writes it, with what else is known;
        `detailed` adds its lists per request, times in seconds."""
        document: dict[str, Any] = {
            "date": self.date,
            "endpoint_type": "openai-chat" if self.chat else "openai",
            "backend": "openai-chat" if self.chat else "openai",
            "label": None,
            "model_id": self.model,
            "tokenizer_id": self.tokenizer,
            "measured_by": bench.CLIENT,
            "base_url": self.url,
            "engine": self.engine,
            "prompts": self.prompts,
            "asked": dict(self.asked),
            "slo_ms": dict(self.slo),
        } | self.summary
        if detailed:
            document |= self.detailed()
        return document | {
            "tokens_counted_by": self.counted_by,
            "token_counts": self.token_counts,
            "failures": self.failures,
            "stopped": self.stopped,
            "client": self.client,
            "findings": list(self.findings),
        }

    def detailed(self) -> dict[str, Any]:
        """The lists of `vllm bench serve --save-detailed`, of the requests that were sent."""
        return {
            "input_lens": self.input_tokens.tolist(),
            "output_lens": self.tokens.tolist(),
            "ttfts": np.nan_to_num(self.ttft_s).tolist(),
            "itls": [each.tolist() for each in self.itl_s],
            "latencies": np.nan_to_num(self.e2el_s).tolist(),
            "start_times": [each.sent_s for each in self.answers],
            "queue_times": self.waited_s.tolist(),
            "generated_texts": [each.text for each in self.answers],
            "errors": self.errors,
        }
