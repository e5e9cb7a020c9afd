"""The README's figures: python -m specsim.figures [FOLDER]"""

import sys
from pathlib import Path

import numpy as np

import specsim
from specsim import figures, sweep


def main(folder: Path) -> None:
    """Write every figure into `folder`, naming the files."""
    folder.mkdir(parents=True, exist_ok=True)
    target, draft = specsim.model("llama-3.1-8b"), specsim.model("llama-3.2-1b")
    drafter, system = specsim.DraftModel(draft), specsim.system("h200-sxm")
    sheet, axes = figures.sheet(height=3.6)
    found = sweep.speedup_map(
        target,
        drafter,
        system,
        x=("batch", np.unique(np.geomspace(1, 512, 40).round())),
        y=("context", np.geomspace(512, 131_072, 40).round()),
        gammas=range(9),
        alpha=0.8,
    )
    figures.speedup_map(axes, found)
    axes.set_title(f"{target.name} with {draft.name}, {system.accelerator.name}, α = 0.8")
    file = folder / "speedup-map.png"
    file.write_bytes(figures.png(sheet))
    print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
