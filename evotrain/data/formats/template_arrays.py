"""Templates as arrays in a file: the template_… features that AlphaFold's data pipeline writes.

Dimensions: K templates, N residues of the protein.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evotrain.data.formats.alignment import encode
from evotrain.data.formats.files import read_arrays
from evotrain.data.protein import GAP, NUM_ATOMS, UNKNOWN, Templates
from evotrain.errors import DataError

# The order in which HHblits and HHsearch number residues; AlphaFold writes template_aatype in it.
HHBLITS_LETTERS = "ACDEFGHIKLMNPQRSTVWYX-"
FROM_HHBLITS = encode(HHBLITS_LETTERS)

TEMPLATE_FILE = "templates.npz"  # beside an alignment

_AATYPE, _POSITIONS, _SUM_PROBS = "template_aatype", "template_all_atom_positions", "template_sum_probs"
_MASKS = ("template_all_atom_masks", "template_all_atom_mask")  # AlphaFold's name, and OpenFold's
# What is read of a file; others (names, sequences) are not, for some files hold them as pickled objects.
TEMPLATE_ARRAYS = (_AATYPE, _POSITIONS, *_MASKS, _SUM_PROBS)


def read_templates(path: Path, length: int) -> Templates | None:
    """The templates of a protein of `length` residues in an `.npz` file, as `templates_from_arrays` has them.

    Never unpickles. Raises DataError for a file that cannot be read or that does not hold such arrays.
    """
    return templates_from_arrays(path, read_arrays(path, TEMPLATE_ARRAYS), length)


def templates_from_arrays(path: Path, arrays: Mapping[str, np.ndarray], length: int) -> Templates | None:
    """The templates of a protein of `length` residues, the most trusted first; None if there are none.

    `arrays`, of which those of TEMPLATE_ARRAYS are looked at, hold template_aatype (one-hot [K, N, 22] in HHblits
    order, or int [K, N] in AlphaFold's), template_all_atom_positions [K, N, 37, 3] in Å and template_all_atom_masks
    [K, N, 37] (or …_mask), and may hold template_sum_probs [K] or [K, 1], by which they are ranked, else they keep
    their order. A template without any atom is none: some pipelines write one of zeros where they found nothing.
    Raises DataError, which names `path`, for arrays that are missing or of another form.
    """
    arrays = _named(path, arrays)
    count = len(arrays[_AATYPE])
    if not count:  # AlphaFold writes arrays of other shapes then
        return None
    _check_shapes(path, arrays, count, length)
    aatype = _aatype(path, arrays[_AATYPE])
    mask = arrays[_MASKS[0]].astype(np.float32)
    positions = observed_positions(path, arrays[_POSITIONS], mask)
    ranked = np.arange(count)
    if _SUM_PROBS in arrays:
        ranked = np.argsort(-arrays[_SUM_PROBS].reshape(count).astype(np.float64), kind="stable")
    ranked = ranked[mask.any((1, 2))[ranked]]
    if not ranked.size:
        return None
    return Templates(aatype=aatype[ranked], atom_positions=positions[ranked], atom_mask=mask[ranked])


def observed_positions(path: Path, positions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Coordinates float32 [..., 37, 3] with 0 where `mask`, float32 [..., 37], is 0: a file may hold anything there.

    Raises DataError, which names `path`, for others that are not finite, and for a mask of other values than 0 and 1.
    """
    positions = np.where(mask[..., None] > 0, positions, 0).astype(np.float32)
    if not (np.isfinite(positions).all() and np.isin(mask, (0, 1)).all()):
        raise DataError(f"{path}: an observed atom has no finite coordinates, or a mask is neither 0 nor 1.")
    return positions


def _named(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that are used, each under AlphaFold's name."""
    mask_name = next((name for name in _MASKS if name in arrays), _MASKS[0])
    needed = (_AATYPE, _POSITIONS, mask_name)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise DataError(f"{path}: has no {missing[0]}; it needs {', '.join(needed)}.")
    found = [name for name in (*needed, _SUM_PROBS) if name in arrays]
    for name in found:
        kinds = "biuf" if name == mask_name else "iuf"
        if arrays[name].dtype.kind not in kinds or not arrays[name].ndim:
            raise DataError(f"{path}: {name} is no array of numbers.")
    return {_MASKS[0] if name == mask_name else name: arrays[name] for name in found}


def _check_shapes(path: Path, arrays: Mapping[str, np.ndarray], count: int, length: int) -> None:
    expected = {
        _AATYPE: ((count, length), (count, length, len(HHBLITS_LETTERS))),
        _POSITIONS: ((count, length, NUM_ATOMS, 3),),
        _MASKS[0]: ((count, length, NUM_ATOMS),),
        _SUM_PROBS: ((count,), (count, 1)),
    }
    for name, x in arrays.items():
        if x.shape not in expected[name]:
            wanted = " or ".join(str(list(shape)) for shape in expected[name])
            raise DataError(f"{path}: {name} has the shape {list(x.shape)}, expected {wanted}, for {length} residues.")


def _aatype(path: Path, given: np.ndarray) -> np.ndarray:
    """Residue types int32 [K, N] in AlphaFold's order."""
    if given.ndim == 3:
        return FROM_HHBLITS[given.argmax(-1)].astype(np.int32)
    if given.dtype.kind == "f" or (given.size and not 0 <= given.min() <= given.max() <= GAP):
        raise DataError(
            f"{path}: template_aatype holds values that are no residue types (0 to {UNKNOWN}, {GAP} a gap)."
        )
    return given.astype(np.int32)
