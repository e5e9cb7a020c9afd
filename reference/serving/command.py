"""`python -m reference serve`: start the engine and the HTTP server, and end them cleanly."""

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
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


class Server(uvicorn.Server):
    """Uvicorn without handlers of signals: ours end the engine too, and the status is then 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle no signals."""
        yield


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

    async def run() -> None:
        engine = Engine(
            slots,
            tokenizer.decode,
            Metrics(name, drafter.gamma),
            hand_over(asyncio.get_running_loop()),
            options.prompt_tokens,
        )
        created = int(time.time())
        service = Service(engine, tokenizer, render, name, str(folder), created, limits)
        config = uvicorn.Config(
            application(service), log_level=logging.WARNING, access_log=False, lifespan="off",
            backlog=2048, timeout_graceful_shutdown=options.shutdown_seconds, ws="none",
            server_header=False, date_header=False,
        )  # fmt: skip
        server = Server(config)

        def end() -> None:
            server.force_exit = service.closing  # the second signal does not wait
            service.closing = server.should_exit = True

        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, end)
        engine.thread.start()
        if options.json:
            print(json.dumps({"url": url, "model": name, "slots": options.slots}), flush=True)
        said = f"{drafter.gamma} drafts per cycle" if drafter.gamma else "no drafts"
        if not options.json:
            print(f"serving {name} at {url} ({options.slots} slots, {said})", flush=True)
        await server.serve(sockets=[listening])
        for request in (*(each for _, each in slots.used), *engine.waiting):
            engine.cancel(request)  # those that the limit of time has left
        engine.close()
        await asyncio.to_thread(engine.thread.join, 10)

    sys.setswitchinterval(SWITCH_INTERVAL)
    asyncio.run(run())
    return 0


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

    def end(*_) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    before = signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, before)


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
