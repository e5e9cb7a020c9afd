"""How long `import specsim` takes, in fresh interpreters.

It is compared with an interpreter that imports nothing, and with one that imports NumPy, which is
all that specsim loads.
"""

import statistics
import subprocess
import sys
import time

RUNS = 7


def seconds_to_run(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    statements = {"bare interpreter": "pass", "numpy": "import numpy", "specsim": "import specsim"}
    for code in statements.values():
        seconds_to_run(code)  # writes the .pyc files and warms the page cache
    # Round by round, so that other work on the machine slows all three alike.
    rounds = [
        {name: seconds_to_run(code) for name, code in statements.items()} for _ in range(RUNS)
    ]
    median_s = {name: statistics.median(run[name] for run in rounds) for name in statements}
    bare_s = median_s["bare interpreter"]
    print(f"median of {RUNS} fresh interpreters; 'net' is without the interpreter's own start")
    for name, total_s in median_s.items():
        print(f"{name:<18}{total_s * 1e3:7.1f} ms total{(total_s - bare_s) * 1e3:8.1f} ms net")


if __name__ == "__main__":
    main()
