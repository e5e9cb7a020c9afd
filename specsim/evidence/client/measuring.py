"""One call that measures a server.

The event loop runs in a thread of its own, so that a notebook, which has a loop already, can call
it too, and so that Ctrl-C ends a run with what has been measured.
"""

import asyncio
import math
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specsim.checks import SpecsimError, require_text, within
from specsim.checks.files import decoded_ascii
from specsim.checks.limits import LIMITS, require_limit
from specsim.evidence.client.address import Address, Key, address_of
from specsim.evidence.client.answers import StreamedAnswer
from specsim.evidence.client.arrays import require_slo
from specsim.evidence.client.clock import Clock
from specsim.evidence.client.dialect import Dialect, dialect_of, first_model, understood
from specsim.evidence.client.http1 import Connections, Failure
from specsim.evidence.client.overhead import Overhead, overhead
from specsim.evidence.client.prompts import Prompts, Tokenizer, Written
from specsim.evidence.client.run import ServerRun
from specsim.evidence.client.sending import ClientLoad, Sender
from specsim.evidence.client.streams import ask
from specsim.evidence.counters import Counters
from specsim.evidence.served import metrics
from specsim.evidence.served.histograms import mean_tokens
from specsim.evidence.served.prometheus import Page, pages

Progress = Callable[[int, int, int], None]  # requests that ended, all, and those that failed
OFTEN_S, PATIENCE_S = 0.1, 5.0  # how often progress is told; how long an interrupted run may take
SCRAPE_S = 10.0
WARMUP = 2 * 10**9  # the numbers of the prompts that warm a server up: no request has them


@dataclass(slots=True)
class _Job:
    """A run, in the thread of its event loop."""

    address: Address
    load: ClientLoad
    model: str | None
    chat: bool
    prompts: Prompts
    key: Key
    timeout_s: float
    temperature: float | None
    ignore_eos: bool
    warmup: int
    scrape: bool
    weigh: bool
    clock: Clock
    tls: ssl.SSLContext | None
    pool: Connections = field(init=False)
    dialect: Dialect | None = None
    sender: Sender | None = None
    loop: asyncio.AbstractEventLoop | None = None
    own: Overhead | None = None
    scrapes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    busy: float | None = None
    error: BaseException | None = None
    interrupted: bool = False
    # not `Thread.join`: where Ctrl-C ends one, Python 3.11 takes the thread as ended
    finished: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """The body of the thread; what goes wrong is kept for the caller."""
        try:
            asyncio.run(self._all())
        except BaseException as error:
            self.error = error
        finally:
            self.finished.set()

    def stop(self) -> None:
        """Called from another thread: end the run with what there is."""
        self.interrupted = True
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self.sender is not None:
            self.sender.stop("interrupted")

    async def _all(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pool = Connections(self.address, self.key, self.tls)
        try:
            await self._measure()
        finally:
            self.pool.end()

    async def _measure(self) -> None:
        model = self.model or await first_model(self.pool)
        begin = dialect_of(model, self.chat, self.temperature, self.ignore_eos)
        self.dialect, self.prompts = await understood(
            self.pool, begin, self.prompts, self.clock, self.timeout_s
        )
        self.notes += self.dialect.notes
        if self.weigh:
            self.own = await overhead()
        for number in range(self.warmup):
            await self._send(
                StreamedAnswer(WARMUP + number, asked_input=self._middle(self.load.input_tokens),
                       asked_output=self._middle(self.load.output_tokens))
            )  # fmt: skip
        await self._scrape()
        self.sender = Sender(self.load, self._send, self.clock)
        if self.interrupted:
            self._stop()
        began, used = time.perf_counter(), time.thread_time()
        await self.sender.run()
        spent = time.perf_counter() - began
        self.busy = (time.thread_time() - used) / spent if spent > 0.05 else None
        await self._scrape()

    @staticmethod
    def _middle(tokens: np.ndarray) -> int:
        return max(1, int(np.median(tokens)))

    async def _send(self, answer: StreamedAnswer) -> bool:
        assert self.dialect is not None
        prompt = self.prompts.of(answer.number, answer.asked_input)
        body = self.dialect.body(prompt, answer.asked_output)
        message = self.pool.message("POST", self.dialect.path(self.address), body)
        return await ask(self.pool, message, answer, self.clock, self.timeout_s)

    async def _scrape(self) -> None:
        """Read the server's page of counters, if it has one."""
        if not self.scrape:
            return
        path = f"{self.address.root}/metrics"
        try:
            async with asyncio.timeout(SCRAPE_S):
                response, content = await self.pool.fetch("GET", path, LIMITS["json_bytes"].most)
            if response.status == 200:
                self.scrapes.append(decoded_ascii(content, path, "json_bytes"))
        except (Failure, SpecsimError, TimeoutError):
            return


def measure_server(
    url: str,
    load: ClientLoad,
    *,
    model: str | None = None,
    chat: bool = False,
    prompts: Sequence[Written] = (),
    slo: Mapping[str, float] | None = None,
    timeout_s: float = 600.0,
    temperature: float | None = None,
    ignore_eos: bool = False,
    warmup: int = 0,
    tokenizer: Tokenizer | None = None,
    tokenizer_name: str | None = None,
    metrics: bool = True,
    overhead: bool = True,
    key: Key | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
    tls: ssl.SSLContext | None = None,
) -> ServerRun:
    """Send a load to a server of the OpenAI protocol and measure its answers.

    Arguments: `load`, as `specsim.serving.traffic` makes it; `model`, by default the first that the
    server lists; `chat`, whether to use /chat/completions; `prompts`, instead of random ones, asked
    in their order; `slo`, milliseconds by `ttft`, `tpot`, `e2el`; `timeout_s`, of one request;
    `temperature`, by default the server's own; `ignore_eos`, a field of vLLM, SGLang and llama.cpp
    for answers of full length; `warmup`, requests that are sent before and not counted;
    `tokenizer`, counts the tokens of texts; `metrics`, whether to read the server's page of
    counters before and after; `overhead`, whether to measure what the client itself takes; `key`,
    by default that of the environment; `progress(ended, all, failed)`, called ten times a second;
    `clock` and `tls` replace the clock and what is trusted.

    Nothing but this server is contacted. Ctrl-C ends the run and gives what was measured. Raises
    SpecsimError if the server cannot be reached, or refuses what it is asked.
    """
    address = address_of(url)
    limits = require_slo(slo)
    require_run(timeout_s, temperature, warmup)
    if model is not None:
        require_text("model", model)
    chat = chat if address.chat is None else address.chat
    written = tuple(prompts)
    if any(each.is_chat for each in written) and not chat:
        raise SpecsimError("prompts of messages need a chat: give --chat")
    asking = Prompts(load.seed, written)
    if tokenizer is not None and tokenizer.size < 2000:
        asking = Prompts(load.seed, written, least_id=tokenizer.size // 2, most_id=tokenizer.size)
    job = _Job(
        address, load, model, chat, asking, Key.of_environment() if key is None else key,
        timeout_s, temperature, ignore_eos, warmup, metrics, overhead, clock or Clock(), tls,
    )  # fmt: skip
    _run(job, progress)
    return _measured(job, limits, tokenizer, tokenizer_name)


def require_run(timeout_s: float, temperature: float | None, warmup: int) -> None:
    """SpecsimError for a time, a temperature or a number of requests that cannot be."""
    if not 0.0 < timeout_s <= 86_400.0:
        raise SpecsimError(f"--timeout must be seconds above 0, at most 86,400, got {timeout_s:g}")
    if temperature is not None:
        within("--temperature", temperature, low=0.0, high=100.0)
    if warmup < 0:
        raise SpecsimError(f"--warmup must be a number of requests >= 0, got {warmup}")
    require_limit("requests", warmup, "--warmup")


def _run(job: _Job, progress: Progress | None) -> None:
    thread = threading.Thread(target=job.run, name="specsim-client", daemon=True)
    thread.start()
    try:
        while not job.finished.wait(OFTEN_S):
            sender = job.sender
            if progress is not None and sender is not None:
                progress(sender.ended, len(job.load.arrival_s), sender.failed)
    except KeyboardInterrupt:
        if job.sender is None:  # nothing was measured
            raise
        job.stop()
        if not job.finished.wait(PATIENCE_S + SCRAPE_S):
            raise
    if job.error is not None:
        raise job.error


def _measured(
    job: _Job, slo: dict[str, float], tokenizer: Tokenizer | None, name: str | None
) -> ServerRun:
    sender, dialect = job.sender, job.dialect
    assert sender is not None
    assert dialect is not None
    for answer in sender.answers:  # a server may repeat what it was sent
        answer.texts = [job.key.hide(answer.text)] if job.key else answer.texts
    engine, counters, counted, notes = _between(job.scrapes)
    texts = None
    if tokenizer is not None:
        texts = np.array([tokenizer.count(a.text) for a in sender.answers], dtype=np.int64)
    cautions = [*job.notes, *notes]
    if job.key and not job.address.secure and job.address.host not in ("localhost", "127.0.0.1",
                                                                      "::1"):  # fmt: skip
        cautions.append("The key was sent without encryption: the address begins with http://.")
    kind = "of a file" if job.prompts.written else "token ids" if job.prompts.as_ids else "words"
    asked: dict[str, Any] = dict(dialect.options) | {"limit": dialect.limit}
    return ServerRun(
        url=job.address.shown,
        model=dialect.model,
        chat=dialect.chat,
        load=job.load,
        answers=tuple(sender.answers),
        duration_s=max(0.0, sender.ended_s - sender.begun_s),
        begun_s=sender.begun_s,
        slo=slo,
        text_tokens=texts,
        tokenizer=name,
        prompts=kind,
        asked=asked,
        stopped=sender.stopped,
        engine=engine,
        counters=counters,
        counted=counted,
        overhead=job.own,
        busy=job.busy,
        cautions=tuple(cautions),
    )


def _between(
    scrapes: Sequence[str],
) -> tuple[str | None, Counters | None, dict[str, float], list[str]]:
    """Engine, acceptance and counts between two scrapes, and what is doubtful about them."""
    if len(scrapes) < 2:
        gone = ["The server's /metrics could not be read after the run."] if scrapes else []
        return None, None, {}, gone
    try:
        found = pages(f"{scrapes[0]}\n{scrapes[1]}\n")
    except SpecsimError as error:
        return None, None, {}, [f"The server's counters are left out: {error}."]
    if not found:
        return None, None, {}, []
    page = next(iter(found.values()))
    counted = {name: v for name, v in mean_tokens(page).items() if v is not None}
    if page.scrapes < 2 or not all(math.isfinite(v) for v in counted.values()):
        counted = {}
    counters, notes = None, []
    try:
        counters = None if _idle(page) else metrics.acceptance_of(page)
    except SpecsimError as error:
        notes.append(f"The acceptance is left out: {error}.")
    return page.engine, counters, counted, notes


def _idle(page: Page) -> bool:
    """Whether nothing was drafted between the scrapes: the page then falls back to what was counted
    since the start of the server, which is not of this run."""
    return page.scrapes < 2 or any(c.startswith("Nothing was drafted") for c in page.cautions)
