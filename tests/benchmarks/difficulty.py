"""How precise direct coupling analysis is on generated families of several difficulties, as a Markdown table.

    python tests/benchmarks/difficulty.py

The families are the held-out ones of data=coevolution, whole. A few seconds on one core, and the same everywhere up to
the rounding of sums.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evotrain.contacts import CHANCE, KEYS, contact_precision, mean_precision
from evotrain.data.generated.coevolution import generate_family
from evotrain.data.protein import pseudo_beta
from evotrain.data.sources import HELD_OUT_FAMILIES, HELD_OUT_SEED
from evotrain.data_config import CoevolutionConfig
from evotrain.dca import contact_scores

FAMILIES = 32
PLAIN = CoevolutionConfig(crop=64, msa_clusters=64, length=64, depth=64)
CHANGES = {
    "depth": (16, 32, 128, 256),
    "coupling": (0.7, 1.0, 2.0),
    "branch_sweeps": (0.25, 0.5, 1.0, 8.0),
    "length": (48, 128, 192),
}
HARD = {"length": 128, "depth": 128, "coupling": 1.0, "branch_sweeps": 1.0}  # data=coevolution_hard


def main() -> None:
    print("| families | precision at L | at L/2 | at L/5 | chance |\n|---|---|---|---|---|")
    show("`length=64 depth=64 coupling=1.4 branch_sweeps=2`", PLAIN)
    for knob, values in CHANGES.items():
        for value in values:
            show(f"`{knob}={value}`", replace(PLAIN, **{knob: value}))
    show("`data=coevolution_hard`, whole", replace(PLAIN, **HARD))


def show(name: str, config: CoevolutionConfig) -> None:
    rows = []
    for index in range(FAMILIES):
        protein = generate_family((HELD_OUT_SEED, HELD_OUT_FAMILIES), index, config)
        positions, mask = pseudo_beta(protein.msa[0], protein.atom_positions, protein.atom_mask)
        rows.append(contact_precision(contact_scores(protein.msa), positions, mask, protein.residue_index))
    mean = mean_precision(rows)
    print(f"| {name} | {' | '.join(f'{mean[key]:.2f}' for key in (*KEYS, CHANCE))} |", flush=True)


if __name__ == "__main__":
    main()
