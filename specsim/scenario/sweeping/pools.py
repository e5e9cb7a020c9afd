"""Where points are computed: processes of this machine, a Dask cluster, or any executor."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from specsim.checks import SpecsimError, require_size
from specsim.checks.extras import needed
from specsim.checks.files import read_json
from specsim.checks.limits import require_limit

# One BLAS thread a worker: more of them would only wait for each other's cores.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
ANSWERS_S = 10  # a scheduler that does not answer in this time is not there


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """How executors are made and ended, so that a broken one can be replaced.

    `start` makes one, `stop` ends it (at once, where its second argument is true), `workers` says
    how many points it computes at a time. `replaces` is false for an executor that was handed over:
    nobody here can make another.
    """

    start: Callable[[], Executor]
    stop: Callable[[Executor, bool], None]
    workers: Callable[[], int]
    replaces: bool = True


def process_pool(workers: int) -> WorkerPool:
    """`workers` processes of this machine, each with one BLAS thread."""
    require_size("--workers", workers)
    require_limit("workers", workers, "--workers")

    def start() -> Executor:
        from multiprocessing import get_context  # rarely needed, slow to import

        # spawn: a forked process inherits locks of threads that it does not have
        return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)

    return WorkerPool(start, _end_processes, lambda: workers)


@contextmanager
def dask_pool(address: str) -> Iterator[WorkerPool]:
    """The workers of a Dask cluster, by its scheduler's address or its scheduler file.

    Raises MissingExtra without Dask, and SpecsimError where no scheduler answers.
    """
    with needed("--dask"):
        from distributed import Client
    named = {"address": address}
    if address.endswith(".json"):
        read_json(address)  # Dask waits for ever for one that is missing
        named = {"scheduler_file": address}
    elif not address.strip():  # Dask would start workers of its own
        raise SpecsimError("--dask needs the address of a scheduler, as tcp://head:8786")
    try:
        client = Client(**named, timeout=ANSWERS_S, set_as_default=False)
    except Exception as error:  # of the network, of the address, of another version
        raise SpecsimError(f"no Dask scheduler answers at {address}: {error}") from None
    try:
        yield WorkerPool(
            lambda: client.get_executor(pure=False),  # nothing is kept by what was asked
            lambda executor, at_once: executor.shutdown(wait=not at_once),
            lambda: max(1, sum(client.nthreads().values())),
        )
    finally:
        client.close()


def given_pool(executor: Executor) -> WorkerPool:
    """An executor that the caller made, and ends."""
    workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
    return WorkerPool(lambda: executor, lambda *_: None, lambda: workers, replaces=False)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that are started meanwhile use one BLAS thread, unless told otherwise."""
    mine = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(mine, "1"))
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C is answered after the block. Processes that are started in it never get one: it is
    their parent's to answer."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """In a new worker: it ends with its parent, and leaves Ctrl-C to it."""
    from multiprocessing import parent_process

    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def outlive() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=outlive, daemon=True).start()


def _end_processes(executor: Executor, at_once: bool) -> None:
    processes: dict[int, Any] = dict(getattr(executor, "_processes", None) or {})
    executor.shutdown(wait=not at_once, cancel_futures=at_once)
    for process in processes.values() if at_once else ():
        with suppress(OSError, ValueError):
            process.kill()
