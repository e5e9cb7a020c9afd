"""The explorer as a page: a notebook of one cell that Voila serves on this machine."""

import html
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from specsim.checks import SpecsimError
from specsim.checks.extras import needed, require_modules

HOST = "127.0.0.1"  # never another: whoever reaches the page can use it and end its kernel
PATIENCE_S = 60.0
MOST_PAGES = 8  # open at once: each has a kernel, of some 200 MB
FULL = (
    "No more pages of the explorer can be open at the same time: each takes memory. Close one and "
    "reload this page. A page that was closed without notice ends within three minutes."
)
# the only extensions of JupyterLab that are needed: the widgets, with Voila's manager for 7 and 8
WIDGETS = (
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager7",
    "@voila-dashboards/widgets-manager8",
)


def give_token(handler: Any, **_: Any) -> None:
    """Voila's hook before the kernel of a page starts. Reading the token sets a cookie, which the
    page sends when it closes; without it Voila refuses to end the kernel."""
    handler.xsrf_token  # noqa: B018


# Who knows the token may open a page and then carries a cookie; all others get no kernel and no
# socket. Voila's own checks stay on: only pages of this origin may open the socket, a kernel
# accepts widget messages but no code, and ending a kernel needs the token. Its check of the Host
# header is off by default; it keeps out a foreign page whose host name was made to point to this
# machine.
GUARDED: dict[str, dict[str, Any]] = {
    "Voila": {"tornado_settings": {"allow_remote_access": False}},
    "VoilaConfiguration": {
        "prelaunch_hook": give_token,
        "file_allowlist": [],  # no pictures of the folder that it was started in
    },
}


def open_page(query: str = "", port: int | None = None, browser: bool = True) -> int:
    """Serve the explorer until it is interrupted; prints its address once it answers.

    Arguments: `query`, the scenario to begin with, as in a link; `port`, or None for a free one;
    `browser`, whether to open one. Raises SpecsimError where Voila is not installed.
    """
    what = "the explorer's page"
    kernels_need = ("ipywidgets", "ipykernel", "IPython", "matplotlib", "PIL")
    require_modules(what, *kernels_need, extra="notebooks")
    with needed(what, "notebooks"):
        from traitlets.config import Config
        from voila.app import Voila
    chosen, token = port or free_port(), secrets.token_urlsafe(24)
    found = [str(Path(__file__).parent), os.environ.get("JUPYTER_PATH", "")]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, found))  # where the template is
    address = f"http://{HOST}:{chosen}/?token={token}" + (f"&{query}" if query else "")
    with tempfile.TemporaryDirectory(prefix="specsim-explore-") as folder:
        path = Path(folder) / "specsim explorer.ipynb"
        path.write_text(json.dumps(notebook(Path("measurements").resolve())), encoding="utf-8")
        threading.Thread(
            target=announce, args=(chosen, lambda: _welcome(address, browser)), daemon=True
        ).start()
        Voila.launch_instance(
            [str(path), *options(chosen)], config=Config(guarded(token, few_kernels(MOST_PAGES)))
        )
    return 0


def guarded(token: str, manager: type) -> dict[str, dict[str, Any]]:
    """`GUARDED` with a token, which no command line shows, and a manager of kernels."""
    told: dict[str, dict[str, Any]] = {
        "Voila": {"token": token},
        "VoilaConfiguration": {"multi_kernel_manager_class": manager},
    }
    return {name: values | told[name] for name, values in GUARDED.items()}


def few_kernels(most: int) -> type:
    """A manager of kernels that starts no more than `most` at a time: a page beyond them says so,
    with status 503."""
    from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
    from tornado.web import HTTPError

    class FewKernels(AsyncMappingKernelManager):
        """Counts those that are about to start, too."""

        starting = 0

        async def start_kernel(self, **how: Any) -> Any:  # type: ignore[override]
            """As the base class; HTTPError 503 where there are enough."""
            if len(self) + self.starting >= most:
                raise HTTPError(503, FULL, reason="Too many open pages")
            self.starting += 1
            try:
                return await super().start_kernel(**how)
            finally:
                self.starting -= 1

    return FewKernels


def options(port: int) -> list[str]:
    """Voila's options: only on this machine, with our template, with only these extensions."""
    return [
        f"--Voila.ip={HOST}",
        f"--port={port}",
        "--Voila.port_retries=0",
        "--no-browser",
        "--template=specsim",
        *(f"--VoilaConfiguration.extension_allowlist={name}" for name in WIDGETS),
        "--Voila.log_level=ERROR",
        # end a kernel whose page closed without notice; one whose page is open stays
        "--MappingKernelManager.cull_idle_timeout=120",
        "--MappingKernelManager.cull_interval=30",
        *(["--KernelManager.transport=ipc"] if os.name == "posix" else []),
    ]


def free_port() -> int:
    """A port of this machine that is not in use."""
    with socket.socket() as asked:
        asked.bind((HOST, 0))
        port: int = asked.getsockname()[1]
    return port


def announce(port: int, call: Callable[[], None], patience_s: float = PATIENCE_S) -> None:
    """Call once something listens on the port; give up after `patience_s`."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            call()
            return


def _welcome(address: str, browser: bool) -> None:
    print(f"explorer  {address}\nCtrl-C ends it", flush=True)
    if browser:
        webbrowser.open(address)


def notebook(measurements: Path) -> dict[str, Any]:
    """A notebook of one cell; the page's address says which scenario the explorer shows."""
    source = (
        f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n"
        "from specsim.explorer import page\n"
        f"page.show({str(measurements)!r})"
    )
    cell: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
    }
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": [cell | {"id": "explorer", "source": source}],
        "metadata": {"kernelspec": kernel, "title": "specsim explorer"},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def asked(query: str) -> str:
    """The scenario of the page's address, without the token in front of it."""
    pairs = parse_qsl(query, keep_blank_values=True)
    return urlencode([(name, value) for name, value in pairs if name != "token"])


def show(measurements: str) -> None:
    """Display the explorer at the scenario that the page's address names: what the cell runs."""
    with needed("the explorer's page", "notebooks"):
        from IPython.display import display

    from specsim.explorer.copying import from_query
    from specsim.explorer.widget import Explorer

    try:
        start, problem = from_query(asked(os.environ.get("QUERY_STRING", ""))), None
    except SpecsimError as error:
        start, problem = None, error
    made = Explorer(start, measurements=measurements, linked=True)
    if problem is not None:
        words = html.escape(f"That link cannot be read, so this is the first preset: {problem}.")
        made.story.value = f'<p role="alert" class="specsim-note">{words}</p>'
    display(made)
