"""Alphas made of published rates: within the reach of the method, or said not to be."""

import numpy as np
import pytest

import specsim
from specsim import catalog
from specsim.acceptance.published import rates_of
from specsim.drafting import method
from specsim.planning.acceptances import acceptance_range, alphas_of, out_of_reach

EIGHT, SMALL = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
MODELS = dict.fromkeys(("draft-model", "pearl", "ssd", "cascade", "tree"), SMALL)


@pytest.mark.parametrize("name", catalog.load("methods"))
def test_no_published_rate_is_out_of_the_methods_reach(name):
    drafter = method(name, EIGHT, MODELS.get(name))
    assert out_of_reach(drafter, rates_of(name)) == ()
    found = acceptance_range(drafter, name)
    assert found is None or (found.out_of_reach == 0 and found.high < 1.0)


def test_the_decay_of_dflash_is_the_least_that_reaches_every_rate():
    """At alpha = 1 it emits 1 + sum of decay^(k (k - 1) / 2) tokens, counted here by a loop."""
    decay = catalog.lookup("methods", "dflash")["parameters"]["decay"]
    best = max(rate.tokens_per_cycle for rate in rates_of("dflash"))

    def most(decay):
        emitted = survival = 1.0
        for k in range(15):
            survival *= decay**k
            emitted += survival
        return emitted

    assert most(decay - 0.01) < best == 7.87 <= most(decay)
    alphas = alphas_of(method("dflash", EIGHT), rates_of("dflash"))
    assert alphas.max() == pytest.approx(0.99, abs=0.01)
    assert np.ptp(alphas) > 0.15  # the tasks are told apart


def test_rates_out_of_reach_are_said_in_words():
    steep = method("dflash", specsim.model("qwen3-4b"), decay=0.95)
    found = acceptance_range(steep, "dflash", "qwen3-4b")
    beyond = out_of_reach(steep, [rate for rate in rates_of("dflash") if rate.model == "qwen3-4b"])
    assert found is not None
    assert found.high == 1.0
    assert {rate.tokens_per_cycle for rate in beyond} == {6.64, 6.67, 7.09, 7.27, 7.84}
    (said,) = [each for each in found.sentences if "more tokens per cycle than" in each]
    assert said.startswith(f"{len(beyond)} of these rates")
    assert not any("emits here" in each for each in
                   acceptance_range(method("dflash", EIGHT), "dflash").sentences)  # fmt: skip


def test_published_block_drafters_have_a_block():
    """As their config.json says; a name may say it too."""
    rows = [row for row in catalog.load("heads").values() if "dflash" in row["methods"]]
    known = {row["hub"]: row["block_size"] for row in rows if "block_size" in row}
    assert len(known) >= len(rows) - 1
    assert set(known.values()) <= {8, 10, 16}
    assert known["z-lab/LLaMA3.1-8B-Instruct-DFlash-UltraChat"] == 10
    assert all(size == 16 for hub, size in known.items() if hub.endswith("-b16"))
    others = [row for row in catalog.load("heads").values() if "dflash" not in row["methods"]]
    assert not any("block_size" in row for row in others)
