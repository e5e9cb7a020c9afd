"""Shapes that can be priced and not run are refused before a weight is made or read."""

import json
from pathlib import Path

import pytest
import torch

from reference.checkpoints import load_checkpoint
from reference.transformer import Transformer
from specsim import SpecsimError, catalog
from specsim.architecture import model

PRICED_ALONE = [name for name in catalog.load("models") if model(name).departures]


@pytest.mark.parametrize("name", PRICED_ALONE)
def test_a_shape_that_is_no_llama_is_refused(name: str) -> None:
    words = f"{name} has .*the decoder runs the Llama shape alone"
    with torch.device("meta"), pytest.raises(SpecsimError, match=words):
        Transformer(model(name))


def test_so_is_its_checkpoint(tmp_path: Path) -> None:
    config = dict(catalog.lookup("models", "gemma-3-1b")["config"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpecsimError, match="has a window of 512 tokens, 4 norms a layer, gelu"):
        load_checkpoint(tmp_path)
