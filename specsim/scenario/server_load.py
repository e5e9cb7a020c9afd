"""A server and the requests that come to it: names and numbers by the names of the command line's
options, and what they mean to `specsim.serving`."""

from dataclasses import dataclass, replace
from typing import Any

from specsim import serving
from specsim.acceptance import IID, alpha_from_tokens_per_cycle
from specsim.checks import SpecsimError, whole_number
from specsim.checks.files import read_ascii
from specsim.evidence.served.traces import requests_of
from specsim.planning.memory import MEMORY_SHARE
from specsim.scenario.resolved import Resolved, resolve
from specsim.scenario.scenario import Scenario
from specsim.serving.policies import HYSTERESIS, fixed_gamma, require_known

PROMPT, OUTPUT, REQUESTS = "400,0.8", "200,0.7", 2000  # where nothing is said
AUTO_TOKENS = "auto"  # the KV cache takes what fits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLoad:
    """What a server is asked, how it is set, and what counts as good.

    Arguments: `rate`, requests per second (inf: all at once; None: a closed loop of `concurrency`
    users); `burstiness`, the shape of the gaps, 1 for Poisson; `trace`, a file of requests instead;
    `requests`, how many (None: 2000, of a trace all); `prompt` and `output`, their tokens as
    "MEAN[,SIGMA]" or a file of lengths; `slo`, limits as "ttft:500"; `seed` of all that is drawn;
    `alpha_spread`, the standard deviation of alpha over requests; `policy`, a name of
    `serving.policies.NAMES`. The others are those of `serving.Server`.
    """

    rate: float | None = None
    burstiness: float = 1.0
    concurrency: int | None = None
    trace: str | None = None
    requests: int | None = None
    seed: int = 0
    prompt: str | None = None
    output: str | None = None
    slo: tuple[str, ...] = ()
    alpha_spread: float = 0.0
    policy: str = "best"
    max_seqs: int = 256
    max_batched_tokens: int = 2048
    kv_tokens: str = AUTO_TOKENS
    memory_share: float = MEMORY_SHARE
    prefix_hit: float = 0.0
    price_per_hour: float | None = None
    hysteresis: float = HYSTERESIS

    def resolve(self, scenario: Scenario, policy: str | None = None) -> Resolved:
        """The scenario that is served; tokens per cycle need a `policy` of one gamma."""
        gamma = None if policy is None else fixed_gamma(require_known(policy))
        scenario = replace(scenario, context=1024, gamma=None)
        if scenario.tokens_per_cycle is not None:
            if not gamma:
                raise SpecsimError(
                    "--tokens-per-cycle needs --policy fixed:K, the K it was measured at"
                )
            scenario = replace(scenario, gamma=gamma)
        return resolve(scenario)

    def server(self, found: Resolved) -> serving.Server:
        """The server of a scenario."""
        if not 0.0 <= self.hysteresis <= 10.0:
            raise SpecsimError(f"--hysteresis must be within 0 and 10, got {self.hysteresis:g}")
        price, tokens = self.price_per_hour, self.kv_tokens
        if price is not None and not 0.0 <= price <= 1e9:
            raise SpecsimError(f"--price-per-hour must be within 0 and 1e9, got {price:g}")
        return serving.Server(
            target=found.target,
            system=found.system,
            drafter=found.drafter,
            max_seqs=self.max_seqs,
            max_batched_tokens=self.max_batched_tokens,
            kv_tokens=None if tokens == AUTO_TOKENS else whole_number("--kv-tokens", tokens),
            memory_share=self.memory_share,
            prefix_hit=self.prefix_hit,
            routing_correlation=found.scenario.routing_correlation,
        )

    @property
    def limits_asked(self) -> dict[str, int | None]:
        """Requests at a time, tokens of a pass and of the cache; None where it is the default."""
        usual = ServerLoad()
        asked = {"max_seqs": self.max_seqs, "max_batched_tokens": self.max_batched_tokens}
        found = {name: None if value == getattr(usual, name) else value
                 for name, value in asked.items()}  # fmt: skip
        cache = self.kv_tokens
        return found | {
            "kv_tokens": None if cache == AUTO_TOKENS else whole_number("--kv-tokens", cache)
        }

    def accepting(self, found: Resolved) -> dict[str, Any]:
        """The acceptance as arguments of `serving.simulate`; empty without a draft."""
        scenario, spread = found.scenario, self.alpha_spread
        if found.drafter is None:
            if spread:
                raise SpecsimError("--alpha-spread needs a draft and --alpha")
            return {}
        if not 0.0 <= spread < 1.0:
            raise SpecsimError(f"--alpha-spread must be within 0 and 1, got {spread:g}")
        if scenario.tokens_per_cycle is not None:
            assert scenario.gamma is not None
            alpha = alpha_from_tokens_per_cycle(scenario.tokens_per_cycle, scenario.gamma)
            return {"acceptance": serving.Accepting(IID(alpha), spread, of_cycles=True)}
        survival = scenario.survival or None
        return {"alpha": scenario.alpha, "survival": survival, "alpha_spread": spread}

    def traffic(self) -> serving.Traffic:
        """The requests, drawn from the seed or read from the trace."""
        if self.trace is not None:
            return self._of_trace(self.trace)
        return serving.traffic(
            rate=self.rate, concurrency=self.concurrency,
            requests=REQUESTS if self.requests is None else self.requests,
            prompt=serving.lengths_of("--prompt", self.prompt or PROMPT),
            output=serving.lengths_of("--output", self.output or OUTPUT),
            burstiness=self.burstiness, seed=self.seed,
        )  # fmt: skip

    def _of_trace(self, trace: str) -> serving.Traffic:
        given = {"--rate": self.rate, "--prompt": self.prompt, "--output": self.output}
        for option, value in given.items():
            if value is not None:
                raise SpecsimError(f"{option} has no use with --trace, which has its own")
        found = requests_of(read_ascii(trace, "log_bytes"))
        if found is None:
            raise SpecsimError(
                f"{trace} is no trace that specsim knows: it reads those of Mooncake, Azure, "
                "BurstGPT and vidur"
            )
        if self.requests is not None and self.requests < 1:
            raise SpecsimError(f"--requests must be at least 1, got {self.requests}")
        return serving.traffic_of(
            found[1], concurrency=self.concurrency, seed=self.seed, most=self.requests
        )
