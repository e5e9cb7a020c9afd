"""`python -m reference serve`: start the engine and the HTTP server, and end them cleanly."""

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import uvicorn

from reference.checkpoints import Tokenizer, resolve
from reference.drafters import Drafter
from reference.serving.app import application
from reference.serving.chat import template_of
from reference.serving.completions import Limits, Service, hand_over
from reference.serving.engine import Engine
from reference.serving.metrics import Metrics
from reference.serving.prepared import prepare
from reference.serving.slots import Slots
from reference.settings import mode_for
from reference.transformer import MAX_GAMMA, Transformer
from specsim.checks import SpecsimError

SWITCH_INTERVAL = 5e-4  # seconds for which the event loop may keep the engine from the interpreter


def serve(
    options: argparse.Namespace, target: Transformer, drafter: Drafter, tokenizer: Tokenizer
) -> int:
    """Serve until SIGTERM or Ctrl-C; running requests then end, within a limit of time."""
    require_context(options.max_model_len, target)
    on_cpu = target.device.type == "cpu"
    if options.compile and not on_cpu:
        raise SpecsimError(
            f"--compile is for a CPU; on {target.device} the server records CUDA graphs, or runs "
            "eagerly with --eager"
        )
    context = min(options.max_model_len or 1 << 62, target.architecture.max_context)
    mode = mode_for(target.device, "eager" if options.eager else None)
    slots = Slots(target, drafter, options.slots, context, options.rule, mode)
    name = options.served_model_name or options.target
    folder = resolve("bundled-target" if options.target == "bundled" else options.target)
    folder = folder / "target" if (folder / "target").is_dir() else folder
    render, about_chats = template_of(folder)
    listening = bound(options.host, options.port)
    if on_cpu and not options.eager:
        with ended_by(signal.SIGTERM):
            prepare(slots, options.compile, tell)
    listening.listen(2048)  # from here on clients may connect
    url = f"http://{options.host}:{listening.getsockname()[1]}"
    tell(about_chats)
    limits = Limits(options.max_body_bytes, options.max_queue, options.max_seconds)

    loop = asyncio.new_event_loop()
    engine = Engine(
        slots,
        tokenizer.decode,
        Metrics(name, drafter.gamma),
        hand_over(loop),
        options.prompt_tokens,
    )
    created = int(time.time())
    service = Service(engine, tokenizer, render, name, str(folder), created, limits)
    config = uvicorn.Config(
        application(service), log_level=logging.WARNING, access_log=False, lifespan="off",
        backlog=2048, timeout_graceful_shutdown=options.shutdown_seconds, ws="none",
        server_header=False, date_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)  # on a thread of its own it leaves signals alone

    def end(*_: object) -> None:
        server.force_exit = service.closing  # the second signal does not wait
        service.closing = server.should_exit = True

    async def answer() -> None:
        try:
            if options.json:
                print(json.dumps({"url": url, "model": name, "slots": options.slots}), flush=True)
            said = f"{drafter.gamma} drafts per cycle" if drafter.gamma else "no drafts"
            if not options.json:
                print(f"serving {name} at {url} ({options.slots} slots, {said})", flush=True)
            await server.serve(sockets=[listening])
        finally:
            for request in (*(each for _, each in slots.used), *engine.waiting):
                engine.cancel(request)  # those that the limit of time has left
            engine.close()

    sys.setswitchinterval(SWITCH_INTERVAL)
    with handled(end, signal.SIGINT, signal.SIGTERM):
        run(engine, loop, answer())
    return 0


def run(engine: Engine, loop: asyncio.AbstractEventLoop, answer: Coroutine) -> None:
    """Run the engine on this thread, and HTTP on another, until both have ended.

    The engine stays on the thread that has loaded the model. A second thread that computes has a
    team of OpenMP threads of its own, and with more threads than cores they wait awake for so short
    a time (libgomp's manual, GOMP_SPINCOUNT) that they fall asleep between two operations: cycles
    on such a thread took about 14 % longer (8 rows, 2 cores).
    """
    with asyncio.Runner(loop_factory=lambda: loop) as runner, ThreadPoolExecutor(1) as threads:
        http = threads.submit(runner.run, answer)
        try:
            engine.run()
        except Exception:  # every request was told; health answers 503 until the server is stopped
            traceback.print_exc()
        http.result()


def check(options: argparse.Namespace) -> None:
    """SpecsimError for an option out of range."""
    bounds = {
        "slots": (1, 1024), "port": (0, 65535), "gamma": (0, MAX_GAMMA),
        "max_queue": (0, 1_000_000), "max_body_bytes": (1, 1 << 30), "max_seconds": (0.001, 1e6),
        "shutdown_seconds": (0, 86_400), "prompt_tokens": (1, 1_000_000),
    }  # fmt: skip
    for name, (least, most) in bounds.items():
        value = getattr(options, name)
        if not least <= value <= most:
            raise SpecsimError(
                f"--{name.replace('_', '-')} must be between {least:g} and {most:g}, not {value}"
            )


def require_context(length: int | None, target: Transformer) -> None:
    """SpecsimError for a longest text that the target does not have."""
    most = target.architecture.max_context
    if length is not None and not 2 <= length <= most:
        raise SpecsimError(f"--max-model-len must be between 2 and {most}, not {length}")


def tell(line: str) -> None:
    """Write a line for the person who has started the server."""
    print(f"reference: {line}", file=sys.stderr, flush=True)


@contextmanager
def ended_by(number: int) -> Iterator[None]:
    """Let a signal end the process as an exception does, so that nothing half made is left. A
    second one ends it at once: an exception in a finalizer is lost."""

    def end(*_: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    with handled(end, number):
        yield


@contextmanager
def handled(handler: Callable[..., object], *numbers: int) -> Iterator[None]:
    """Give signals to a handler, and back to the one before at the end."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)


def bound(host: str, port: int) -> socket.socket:
    """A socket that has its port and does not listen yet. Raises SpecsimError for a host or a port
    that cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, UnicodeError) as error:
        raise SpecsimError(
            f"cannot listen on {host} port {port}: {error}; give another --host or --port"
        ) from None
    listening.setblocking(False)
    return listening
