"""Two scrapes of a running server's page of counters. Nothing else is contacted."""

import http.client
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from specsim.checks import SpecsimError, quoted, within
from specsim.checks.files import decoded_ascii
from specsim.checks.limits import LIMITS, require_limit

TIMEOUT_S = 10.0


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirection only to the same host."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            raise SpecsimError(f"{req.full_url} redirects to another host: {quoted(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def scrape_twice(url: str, interval_s: float) -> str:
    """The text of a page, twice, `interval_s` seconds apart; of a server's address without a path,
    the page /metrics.

    Raises SpecsimError if the page cannot be read.
    """
    page = _page(url)
    within("--interval", interval_s, low=0.0, high=3600.0)
    first = scrape(page)
    time.sleep(interval_s)
    return f"{first}\n{scrape(page)}\n"


def _page(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port  # ValueError for one that is no number
    except ValueError as error:
        raise SpecsimError(f"--metrics-url {quoted(url)} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise SpecsimError(
            f"--metrics-url must be an address such as http://127.0.0.1:8000, not {quoted(url)}"
        )
    return url if parts.path not in ("", "/") else f"{parts.scheme}://{parts.netloc}/metrics"


def scrape(page: str) -> str:
    """The text of one page."""
    most = LIMITS["log_bytes"].most
    opener = urllib.request.build_opener(_SameHost)
    try:
        with opener.open(page, timeout=TIMEOUT_S) as answer:
            content = answer.read(most + 1)
    except urllib.error.HTTPError as error:
        raise SpecsimError(f"{page} answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise SpecsimError(f"cannot read {page}: {error.reason}") from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise SpecsimError(f"cannot read {page}: {error}") from None
    require_limit("log_bytes", len(content), f"the size of {page} in bytes")
    return decoded_ascii(content, page, "log_bytes")
