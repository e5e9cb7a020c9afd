"""What the tests of `specsim measure-server` share: there is no key of the user's."""

import pytest


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPECSIM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
