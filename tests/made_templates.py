"""Made-up templates, as AlphaFold's data pipeline writes them."""

import numpy as np

COUNT, LENGTH = 5, 30


def template_arrays(count=COUNT, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    mask = (rng.random((count, length, 37)) < 0.8).astype(np.float32)
    mask[:, :4] = 0  # nothing aligned
    one_hot = np.eye(22, dtype=np.float32)[rng.integers(0, 21, (count, length))]
    one_hot[:, :4] = np.eye(22)[21]
    positions = 10 * rng.standard_normal((count, length, 37, 3)).astype(np.float32)
    return {
        "template_aatype": one_hot,
        "template_all_atom_positions": positions * mask[..., None],
        "template_all_atom_masks": mask,
        "template_sum_probs": np.arange(count, 0, -1, dtype=np.float32)[:, None],
    }
