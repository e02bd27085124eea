"""Examples in sizes that the devices which share one can split evenly.

What is added is zero, and so are the masks there: every loss, metric and gradient stays what it is without.
"""

import numpy as np

# The last dimensions of each feature: N residues, S sequences, E of the extra MSA. A dot is a dimension that is not
# split. Templates are embedded one after another, so only their residues are split; the rows that they give the MSA are
# split among its own, behind which they stand.
_FEATURES = {
    "N": (
        "aatype", "residue_index", "seq_mask", "pseudo_beta_mask", "template_aatype", "template_pseudo_beta_mask",
        "template_backbone_mask", "template_angle_mask",
    ),
    "N.": (
        "target_feat", "pseudo_beta", "template_pseudo_beta", "template_angle_feat", "all_atom_mask",
        "atom14_gt_exists", "atom14_alt_gt_exists", "rigidgroups_gt_exists", "chi_angles", "chi_mask",
    ),
    "N..": (
        "all_atom_positions", "atom14_gt_positions", "atom14_alt_gt_positions", "rigidgroups_gt_frames",
        "rigidgroups_alt_gt_frames",
    ),
    "SN": ("msa_mask", "true_msa", "bert_mask"),
    "SN.": ("msa_feat", "msa"),
    "EN": ("extra_msa", "extra_has_deletion", "extra_deletion_value", "extra_msa_mask"),
    "NN": ("pair_mask",),
    "NN.": ("pair",),
}  # fmt: skip
DIMENSIONS = {name: dimensions for dimensions, names in _FEATURES.items() for name in names}
TEMPLATE_ROWS = "template_angle_feat"  # [T, N, 57], of which rows of the MSA are made


def padded_size(size: int, devices: int) -> int:
    """The least multiple of `devices` that is not below `size`."""
    return -(-size // devices) * devices


def pad(features: dict[str, np.ndarray], devices: int) -> dict[str, np.ndarray]:
    """Features of an example, or of a batch of them, with zeros after their end where `devices` are to split them.

    Each dimension that is split gets a multiple of `devices` as its size, sequences together with the rows made of
    templates; an array that has it already is not copied.
    """
    rows = features[TEMPLATE_ROWS].shape[-3] if TEMPLATE_ROWS in features else 0
    return {name: _pad(x, DIMENSIONS.get(name, ""), rows, devices) for name, x in features.items()}


def _pad(x: np.ndarray, dimensions: str, rows: int, devices: int) -> np.ndarray:
    def padded(size: int, dimension: str) -> int:
        if dimension == ".":
            return size
        others = rows if dimension == "S" else 0
        return padded_size(size + others, devices) - others

    leading = x.ndim - len(dimensions)
    sizes = [padded(*pair) for pair in zip(x.shape, "." * leading + dimensions, strict=True)]
    added = [(0, size - before) for size, before in zip(sizes, x.shape, strict=True)]
    return np.pad(x, added) if any(after for _, after in added) else x
