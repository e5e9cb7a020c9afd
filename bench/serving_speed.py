"""How fast the simulator is: simulated seconds per CPU second at every rate, and a long run.

    python bench/serving_speed.py [--quick]

8B and 1B on an H100, prompts of 400 tokens and answers of 200 on average. Prints ratios; nothing is
asserted, because machines differ. Give it one thread (OMP_NUM_THREADS=1).
"""

import argparse
import resource
import time

import specsim
from specsim import serving

SERVER = serving.Server(
    target=specsim.model("llama-3.1-8b"),
    drafter=specsim.DraftModel(specsim.model("llama-3.2-1b")),
    system=specsim.system("h100-sxm", engine="vllm", precision="auto"),
)
PROMPT, OUTPUT = serving.Lengths(400, 0.8), serving.Lengths(200, 0.7)


def timed(rate: float, requests: int, policy: str) -> None:
    """One run, and what it took."""
    load = serving.traffic(rate=rate, requests=requests, prompt=PROMPT, output=OUTPUT)
    begun = time.process_time()
    found = serving.simulate(SERVER, load, policy=policy, alpha=0.75)
    spent = time.process_time() - begun
    simulated = found.summary["duration"]
    steps = found.loop.tallies.steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{rate:5g}/s {policy:10s} {requests:6d} requests {simulated:8.1f} s simulated "
        f"{spent:6.2f} s CPU  {simulated / spent:7.0f} x  {1e6 * spent / steps:5.0f} us a step  "
        f"{peak:5.0f} MB  {found.state}",
        flush=True,
    )


def main() -> None:
    """Print one line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    quick = parser.parse_args().quick
    for rate in (1, 2, 5, 10, 20, 30, 40, 50):
        for policy in ("off", "fixed:4", "scheduled"):
            timed(rate, min(40 * rate + 100, 400) if quick else 100 * rate + 400, policy)
    for requests in (3000,) if quick else (30_000,):
        for policy in ("fixed:2", "fixed:4"):
            timed(50, requests, policy)


if __name__ == "__main__":
    main()
