"""Feature and label dictionaries as `.npz` files: what AlphaFold's data pipeline, OpenFold and Uni-Fold compute.

Dimensions: M rows of the alignment, N residues of the query.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evotrain.data.formats.alignment import encode, letters
from evotrain.data.formats.files import read_arrays
from evotrain.data.formats.pairwise import MIN_IDENTITY
from evotrain.data.formats.structure import Chain
from evotrain.data.formats.template_arrays import (
    FROM_HHBLITS,
    TEMPLATE_ARRAYS,
    observed_positions,
    templates_from_arrays,
)
from evotrain.data.protein import GAP, NUM_ATOMS, UNKNOWN, Templates
from evotrain.errors import DataError

_DELETIONS = "deletion_matrix_int"
_SPARSE = tuple(f"sparse_{_DELETIONS}__{part}" for part in ("shape", "row", "col", "data"))  # Uni-Fold's
_FEATURES = ("msa", "aatype", "residue_index", _DELETIONS, *_SPARSE, *TEMPLATE_ARRAYS)
_LABELS = ("all_atom_positions", "all_atom_mask", "aatype_index", "aatype", "resolution", "release_date")


@dataclass(frozen=True, kw_only=True)
class FeatureDict:
    """An alignment to its query, row 0, and the templates found for it."""

    msa: np.ndarray  # uint8 [M, N], 0-19 residues, 20 unknown, 21 gap
    deletions: np.ndarray  # int32 [M, N], residues deleted left of each column
    residue_index: np.ndarray  # int32 [N], strictly increasing
    templates: Templates | None

    @property
    def query(self) -> str:
        """Row 0, X for an unknown residue."""
        return letters(self.msa[0])


def read_feature_dict(path: Path) -> FeatureDict:
    """Read the features of one chain before any transform, as AlphaFold's data pipeline writes them.

    Needs msa, int [M, N] in HHblits order, and deletion_matrix_int [M, N] (or Uni-Fold's sparse form: shape, row, col
    and data, each an array called sparse_deletion_matrix_int__…); reads aatype, residue_index and the template_…
    arrays where they are there. Raises DataError for a file that is no `.npz`, that lacks one of these, or in which
    they do not fit together.
    """
    arrays = read_arrays(path, _FEATURES)
    if "msa" not in arrays:
        raise DataError(
            f"{path}: has no msa; give the features as the data pipeline writes them, before they are made into the "
            f"model's input."
        )
    msa = _codes(path, arrays["msa"])
    length = msa.shape[1]
    if "aatype" in arrays:
        _check_identity(path, "aatype", _aatype(path, "aatype", arrays["aatype"]), msa[0], "the first row of msa", 1.0)
    return FeatureDict(
        msa=msa,
        deletions=_deletions(path, arrays, msa.shape),
        residue_index=_residue_index(path, arrays, length),
        templates=templates_from_arrays(path, arrays, length) if "template_aatype" in arrays else None,
    )


def read_labels(path: Path, query: str) -> Chain:
    """Read the coordinates of the query's residues from a label dictionary.

    Needs all_atom_positions [N, 37, 3] in Å, all_atom_mask [N, 37] and aatype_index, int [N] in AlphaFold's order (or
    aatype, also one-hot); reads resolution and release_date where they are there. B-factors are not in such files: 0.
    Raises DataError for a file that is no `.npz`, that lacks one of these, or that is of another protein.
    """
    arrays = read_arrays(path, _LABELS)
    types = "aatype_index" if "aatype_index" in arrays else "aatype"
    for name in ("all_atom_positions", "all_atom_mask", types):
        if name not in arrays:
            raise DataError(f"{path}: has no {name}; labels are all_atom_positions, all_atom_mask and aatype_index.")
    _check_identity(
        path, types, _aatype(path, types, arrays[types]), encode(query), "the query of the alignment", MIN_IDENTITY
    )
    length = len(query)
    mask = _numbers(path, "all_atom_mask", arrays["all_atom_mask"], "biuf", (length, NUM_ATOMS))
    positions = _numbers(path, "all_atom_positions", arrays["all_atom_positions"], "iuf", (length, NUM_ATOMS, 3))
    return Chain(
        atom_positions=observed_positions(path, positions, mask),
        atom_mask=mask,
        b_factor=np.zeros(length, np.float32),
        resolution=_resolution(arrays.get("resolution")),
        release_date=_date(arrays.get("release_date")),
    )


def _codes(path: Path, msa: np.ndarray) -> np.ndarray:
    """Residue codes uint8 [M, N] of an alignment in HHblits order, whose first row has no gaps."""
    if msa.ndim != 2 or not msa.size:
        raise DataError(f"{path}: msa has the shape {list(msa.shape)}; expected rows and residues.")
    _check_integers(path, "msa", msa, msa.shape)
    if not 0 <= msa.min() <= msa.max() <= GAP:
        raise DataError(f"{path}: msa holds values that are no residue types (0 to {UNKNOWN}, {GAP} a gap).")
    codes = FROM_HHBLITS[msa]
    if (codes[0] == GAP).any():
        raise DataError(f"{path}: the first row of msa has gaps, so it is no query.")
    return codes


def _residue_index(path: Path, arrays: dict[str, np.ndarray], length: int) -> np.ndarray:
    """The residues' numbers int32 [N]; from 0 where the file has none."""
    if "residue_index" not in arrays:
        return np.arange(length, dtype=np.int32)
    _check_integers(path, "residue_index", arrays["residue_index"], (length,))
    numbers = arrays["residue_index"].astype(np.int32)
    if (numbers[1:] <= numbers[:-1]).any():
        raise DataError(f"{path}: residue_index does not increase from residue to residue; give each chain its own.")
    return numbers


def _deletions(path: Path, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The deletion matrix int32 [M, N], from either form."""
    if _DELETIONS in arrays:
        deletions = arrays[_DELETIONS]
    elif all(name in arrays for name in _SPARSE):
        given, row, column, data = (arrays[name] for name in _SPARSE)
        for name, x in zip(_SPARSE, (given, row, column, data), strict=True):
            _check_integers(path, name, x, (2,) if x is given else (row.size,))
        inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        if tuple(given) != shape or not inside.all():
            raise DataError(f"{path}: sparse_{_DELETIONS} is not of the shape of msa, {list(shape)}.")
        deletions = np.zeros(shape, np.int32)
        np.add.at(deletions, (row, column), data)
    else:
        raise DataError(f"{path}: has no {_DELETIONS}, neither as an array nor in its sparse form.")
    _check_integers(path, _DELETIONS, deletions, shape)
    if (deletions < 0).any():
        raise DataError(f"{path}: {_DELETIONS} holds negative numbers.")
    return deletions.astype(np.int32)


def _aatype(path: Path, name: str, given: np.ndarray) -> np.ndarray:
    """Residue types [N] in AlphaFold's order, from numbers or one-hot [N, 21]."""
    if given.ndim == 2 and given.shape[1] == UNKNOWN + 1 and given.dtype.kind in "iuf":
        return given.argmax(1)
    _check_integers(path, name, given, (given.size,))
    return given


def _check_identity(path: Path, name: str, aatype: np.ndarray, codes: np.ndarray, of: str, min_identity: float) -> None:
    """Unknown residues on either side neither match nor contradict."""
    if aatype.shape != codes.shape:
        raise DataError(f"{path}: {name} has {aatype.size} residues, but {of} has {codes.size}.")
    known = (aatype != UNKNOWN) & (codes != UNKNOWN)
    same = int((aatype == codes)[known].sum())
    if same < min_identity * known.sum():
        raise DataError(f"{path}: {name} is another sequence than {of}: {same} of {known.sum()} residues agree.")


def _check_integers(path: Path, name: str, x: np.ndarray, shape: tuple[int, ...]) -> None:
    if x.dtype.kind not in "iu":
        raise DataError(f"{path}: {name} is no array of whole numbers.")
    if x.shape != shape:
        raise DataError(f"{path}: {name} has the shape {list(x.shape)}, expected {list(shape)}.")


def _numbers(path: Path, name: str, x: np.ndarray, kinds: str, shape: tuple[int, ...]) -> np.ndarray:
    if x.dtype.kind not in kinds or x.shape != shape:
        raise DataError(f"{path}: {name} is no array of numbers of the shape {list(shape)}.")
    return x.astype(np.float32)


def _resolution(given: np.ndarray | None) -> float:
    """In Å; 0 where it is absent or makes no sense."""
    if given is None or given.dtype.kind not in "iuf" or given.size != 1:
        return 0.0
    resolution = float(given.item())
    return resolution if np.isfinite(resolution) and resolution > 0 else 0.0


def _date(given: np.ndarray | None) -> str:
    """YYYY-MM-DD, "" where it is absent or written otherwise."""
    if given is None or given.dtype.kind not in "SU" or given.size != 1:
        return ""
    date = given.item()
    if isinstance(date, bytes):
        date = date.decode("ascii", "replace")
    return date if re.fullmatch(r"\d{4}-\d\d-\d\d", date) else ""
