"""Gaussian MSA and pair representations of any size: input for timing, and for training without data."""

import numpy as np


def gaussian_example(
    seed: int | tuple[int, ...], index: int, *, residues: int, sequences: int, c_m: int, c_z: int
) -> dict[str, np.ndarray]:
    """Example `index` of the stream `seed`: standard normal float32 tensors and masks of ones.

    Returns `msa` [sequences, residues, c_m], `pair` [residues, residues, c_z], `msa_mask` [sequences, residues] and
    `pair_mask` [residues, residues].
    """
    stream = (seed,) if isinstance(seed, int) else tuple(seed)
    rng = np.random.default_rng((*stream, index))
    return {
        "msa": rng.standard_normal((sequences, residues, c_m), np.float32),
        "pair": rng.standard_normal((residues, residues, c_z), np.float32),
        "msa_mask": np.ones((sequences, residues), np.float32),
        "pair_mask": np.ones((residues, residues), np.float32),
    }
