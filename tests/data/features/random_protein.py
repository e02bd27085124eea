"""Random proteins whose alignments have gaps, deletions and unknown residues."""

import numpy as np

from evotrain.data.protein import GAP, Protein, Templates


def random_protein(rows, length, *, seed=0, templates=0):
    rng = np.random.default_rng(seed)
    msa = rng.integers(0, 22, (rows, length)).astype(np.uint8)
    msa[rng.random(msa.shape) < 0.2] = GAP
    msa[0] = rng.integers(0, 21, length)
    return Protein(
        name="random",
        msa=msa,
        deletions=(rng.poisson(0.3, msa.shape) * rng.integers(0, 5, msa.shape)).astype(np.int32),
        atom_positions=rng.standard_normal((length, 37, 3)).astype(np.float32),
        atom_mask=(rng.random((length, 37)) < 0.8).astype(np.float32),
        residue_index=np.arange(length, dtype=np.int32),
        b_factor=np.zeros(length, np.float32),
        resolution=1.5,
        templates=Templates(
            aatype=rng.integers(0, 22, (templates, length)).astype(np.int32),
            atom_positions=rng.standard_normal((templates, length, 37, 3)).astype(np.float32),
            atom_mask=np.ones((templates, length, 37), np.float32),
        )
        if templates
        else None,
    )
