"""Whether `best` is ever clearly below the best single gamma: ten rates, three seeds.

    python bench/serving_shape.py [--alpha 0.75] [--requests 1500] [--rates 5,10,…]

Good requests per second (TTFT <= 500 ms, TPOT <= 15 ms) of no draft, of every fixed gamma up to 5,
and of `best`, which pays for a draft that it loads. Prints a line for each, and the worst ratio.
"""

import argparse

import specsim
from specsim import serving

SERVER = serving.Server(
    target=specsim.model("llama-3.1-8b"),
    drafter=specsim.DraftModel(specsim.model("llama-3.2-1b")),
    system=specsim.system("h100-sxm", engine="vllm", precision="auto"),
)
SLO = serving.Slo(ttft=500, tpot=15)


def main() -> None:
    """Print the ratio of every point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alpha", type=float, default=0.75)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--rates", default="5,10,15,20,25,30,34,36,38,42")
    options = parser.parse_args()
    worst = 1.0
    for rate in map(float, options.rates.split(",")):
        for seed in range(3):
            load = serving.traffic(
                rate=rate, requests=options.requests, seed=seed,
                prompt=serving.Lengths(400, 0.8), output=serving.Lengths(200, 0.7),
            )  # fmt: skip
            found = {
                name: serving.simulate(SERVER, load, policy=name, alpha=options.alpha, slo=SLO)
                for name in ("off", *(f"fixed:{gamma}" for gamma in range(1, 6)), "best")
            }
            goodput = {name: each.goodput for name, each in found.items()}
            most = max(value for name, value in goodput.items() if name != "best")
            worst = min(worst, goodput["best"] / most)
            print(
                f"{rate:5g}/s seed {seed}  best / max {goodput['best'] / most:.3f}  "
                f"{'with' if found['best'].loop.policy.drafts else 'without'} a draft  "
                + ", ".join(f"{name} {value:.2f}" for name, value in goodput.items()),
                flush=True,
            )
    print(f"worst: {worst:.3f}")


if __name__ == "__main__":
    main()
