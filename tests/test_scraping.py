"""A running server's page of counters is read twice, and nothing else is contacted."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from specsim import cli

PAGE = (
    'vllm:spec_decode_num_drafts_total{{engine="0"}} {0}.0\n'
    'vllm:spec_decode_num_draft_tokens_total{{engine="0"}} {1}.0\n'
    'vllm:spec_decode_num_accepted_tokens_total{{engine="0"}} {2}.0\n'
)


@contextmanager
def served(*pages: str, status: int = 200, to: str = "") -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine that answers with each page in turn, and the paths
    that it was asked for."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if to else status)
            if to:
                self.send_header("Location", to)
            self.end_headers()
            self.wfile.write(pages[min(len(asked), len(pages) - 1)].encode())
            asked.append(self.path)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_two_scrapes_are_subtracted(capsys):
    with served(PAGE.format(100, 300, 158), PAGE.format(150, 450, 188)) as (url, asked):
        words = ["diagnose", "--metrics-url", url, "--interval", "0", "--json"]
        assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens_per_cycle"] == pytest.approx(1 + 30 / 50)
    assert found["gamma"] == 3
    assert asked == ["/metrics", "/metrics"]


@pytest.mark.parametrize(
    ("pages", "how", "said"),
    [
        (("no counters",), {}, "no speculation counters"),
        (("",), {"status": 404}, "answers 404"),
        (("",), {"to": "http://192.0.2.1/metrics"}, "redirects to another host"),
    ],
)
def test_a_page_that_does_not_serve_is_one_line(capsys, pages, how, said):
    with served(*pages, **how) as (url, _):
        assert cli.main(["diagnose", "--metrics-url", f"{url}/metrics", "--interval", "0"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metrics-url", "ftp://x"), "must be an address"),
        (("--metrics-url", "http://x:99999"), "is no address"),
        (("--metrics-url", "http://x", "--log", "y"), "not both"),
        (("--metrics-url", "http://x", "--accepted", "3"), "not both"),
        (("--metrics-url", "http://127.0.0.1:1", "--interval", "-1"), "--interval"),
        (("--metrics-url", "http://127.0.0.1:1"), "cannot read"),
    ],
)
def test_an_address_that_is_none_is_refused(capsys, words, said):
    assert cli.main(["diagnose", *words]) == 2
    assert said in capsys.readouterr().err
