"""What every test file shares: gpu tests skip where there is no CUDA device, and hypothesis gives
the same examples on every run and never fails for being on a slow machine."""

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu and not cuda_is_available():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))


def cuda_is_available() -> bool:
    # Imported here: a run of specsim's own tests has no use for torch.
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()
