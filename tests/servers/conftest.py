"""Servers that are started once for all tests here, or skipped with the reason."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from specsim.checks import SpecsimError
from specsim.demo.processes import free_port, running

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / ".servers"
PAIR = ROOT / "reference" / "pair"
GAMMA = 2


def python_of(name: str) -> str:
    """The interpreter of an environment that `make servers.ready` makes, or a skip."""
    found = ENVIRONMENTS / name / "bin" / "python"
    if not found.exists():
        pytest.skip(f"no {found.relative_to(ROOT)}: make servers.ready could not install it")
    return str(found)


def versus_servers():
    """The bench script, which knows how vLLM is started."""
    spec = importlib.util.spec_from_file_location(
        "versus_servers", ROOT / "bench" / "versus_servers.py"
    )
    module = sys.modules["versus_servers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(context) -> Iterator[str]:
    """A server's address, or a skip if it does not start."""
    try:
        url = context.__enter__().url
    except SpecsimError as error:
        pytest.skip(str(error))
    try:
        yield url
    finally:
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def ours() -> Iterator[str]:
    """Our server with the bundled pair in fp32, two drafts per cycle."""
    from specsim.demo.processes import our_server

    yield from started(our_server(GAMMA, "fp32", 8))


@pytest.fixture(scope="session")
def vllm() -> Iterator[str]:
    """vLLM with the same pair, dtype and drafts."""
    python = python_of("vllm")
    yield from started(versus_servers().vllm_server(python, GAMMA, "fp32"))


@pytest.fixture(scope="session")
def transformers_server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """`transformers serve`, and the folder of its model: the target, with a chat template."""
    python, port = python_of("clients"), free_port()
    folder = tmp_path_factory.mktemp("served") / "target"
    shutil.copytree(PAIR / "target", folder)
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    command = [
        python, "-c", "from transformers.cli.transformers import main; main()",
        "serve", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--device", "cpu",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    for url in started(running(command, port, environment=offline, ready="/health")):
        yield url, folder


@pytest.fixture(scope="session")
def python_with() -> Callable[[str], str]:
    """The interpreter of another environment."""
    return python_of
