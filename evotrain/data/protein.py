"""One protein as every data source delivers it: an alignment, the coordinates that were observed, and templates."""

from dataclasses import dataclass

import numpy as np

# AlphaFold's residue order; 20 is an unknown residue, 21 a gap, 22 the BERT mask.
RESIDUES = "ARNDCQEGHILKMFPSTWYV"
UNKNOWN, GAP, MASK = 20, 21, 22
MSA_CLASSES = 23

# Positions in AlphaFold's 37-atom order that the contact and distance labels need.
NUM_ATOMS = 37
N_ATOM, CA_ATOM, C_ATOM, CB_ATOM = 0, 1, 2, 3
GLYCINE = RESIDUES.index("G")


@dataclass(frozen=True, kw_only=True)
class Templates:
    """Structures of other proteins along the query, the most trusted first.

    T is the number of templates, N the number of residues of the query. Coordinates are in Å.
    """

    aatype: np.ndarray  # int32 [T, N], the templates' own residues: 0-19, 20 unknown, 21 where nothing is aligned
    atom_positions: np.ndarray  # float32 [T, N, 37, 3]
    atom_mask: np.ndarray  # float32 [T, N, 37], 1 where observed


@dataclass(frozen=True, kw_only=True)
class Protein:
    """An alignment with its query in row 0, and coordinates per residue of the query.

    M is the number of aligned sequences, N the number of residues of the query. Coordinates are in Å.
    """

    name: str
    msa: np.ndarray  # uint8 [M, N], 0-19 residues, 20 unknown, 21 gap
    deletions: np.ndarray  # int32 [M, N], residues deleted left of each column
    atom_positions: np.ndarray  # float32 [N, 37, 3]
    atom_mask: np.ndarray  # float32 [N, 37], 1 where observed
    residue_index: np.ndarray  # int32 [N]
    b_factor: np.ndarray  # float32 [N] of Cα: in Å² of an experiment, the pLDDT of a prediction; 0 where not observed
    resolution: float = 0.0  # of the experiment in Å, 0 where unknown
    release_date: str = ""  # of the structure, YYYY-MM-DD, "" where unknown
    templates: Templates | None = None


def pseudo_beta(aatype: np.ndarray, atom_positions: np.ndarray, atom_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cβ, or Cα of glycine: positions float32 [..., 3] in Å and mask float32 [...].

    `aatype` is [...], `atom_positions` [..., 37, 3] in Å, `atom_mask` [..., 37].
    """
    glycine = aatype == GLYCINE
    positions = np.where(glycine[..., None], atom_positions[..., CA_ATOM, :], atom_positions[..., CB_ATOM, :])
    mask = np.where(glycine, atom_mask[..., CA_ATOM], atom_mask[..., CB_ATOM])
    return positions.astype(np.float32), mask.astype(np.float32)
