"""A protein as a record of bytes: exact to the bit, compact once compressed, and read within milliseconds.

    magic word | CRC-32 of the rest | bytes of the header | header | the arrays, coded, one after the other

The header is JSON: the protein's text and numbers, and for each array its name, dtype, shape, coding and bytes. Codings
put an array into a form that a general compressor, which the file of records brings, makes small. An array whose values
a coding would change is stored as it is. Numbers are little-endian.

K is the number of observed atoms.
"""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evotrain.data.protein import Protein, Templates
from evotrain.errors import DataError

MAGIC = b"EVOREC1\n"
_PREFIX = struct.Struct("<8sII")  # magic word, CRC-32, bytes of the header
_DTYPES = ("|u1", "<i4", "<f4")
_PROTEIN_ARRAYS = ("msa", "deletions", "residue_index", "b_factor", "atom_mask", "atom_positions")
_TEMPLATE_ARRAYS = ("aatype", "atom_mask", "atom_positions")


def encode_protein(protein: Protein) -> bytes:
    """The record of a protein; its arrays have the dtypes that `Protein` says."""
    groups = [("", protein, _PROTEIN_ARRAYS)]
    if protein.templates is not None:
        groups.append(("template_", protein.templates, _TEMPLATE_ARRAYS))
    entries, parts = [], []
    for prefix, holder, names in groups:
        arrays = {name: getattr(holder, name) for name in names}
        arrays["atom_positions"] = _observed(arrays["atom_positions"], arrays["atom_mask"])
        for name, x in arrays.items():
            coding, data = _encode(np.ascontiguousarray(x), _TRIED[name])
            entries.append([prefix + name, x.dtype.newbyteorder("<").str, x.shape, coding, len(data)])
            parts.append(data)
    header = json.dumps(
        {
            "name": protein.name,
            "resolution": float(protein.resolution),
            "release_date": protein.release_date,
            "arrays": entries,
        },
        separators=(",", ":"),
    ).encode()
    body = b"".join([header, *parts])
    checked = struct.pack("<I", len(header)) + body
    return MAGIC + struct.pack("<I", zlib.crc32(checked)) + checked


def decode_protein(record: bytes) -> Protein:
    """The protein of a record, its arrays read-only. Raises DataError for a record that is damaged or no protein's."""
    if record[: len(MAGIC)] != MAGIC or len(record) < _PREFIX.size:
        raise DataError("the record is damaged, or of another version of evotrain.")
    _, checksum, header_bytes = _PREFIX.unpack_from(record)
    if zlib.crc32(memoryview(record)[len(MAGIC) + 4 :]) != checksum:
        raise DataError("the record is damaged: its checksum is wrong.")
    position = _PREFIX.size + header_bytes
    header = json.loads(record[_PREFIX.size : position])
    arrays = {}
    for name, dtype, shape, coding, size in header.pop("arrays"):
        x = _CODINGS[coding].decode(memoryview(record)[position : position + size], np.dtype(dtype), tuple(shape))
        x.flags.writeable = False
        arrays[name] = x
        position += size
    own = {name: arrays[name] for name in _PROTEIN_ARRAYS}
    templates = {name: arrays[f"template_{name}"] for name in _TEMPLATE_ARRAYS if f"template_{name}" in arrays}
    return Protein(
        **header,
        **_with_all_atoms(own),
        templates=Templates(**_with_all_atoms(templates)) if templates else None,
    )


def _observed(positions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[K, 3], the positions of observed atoms, where all the others are exactly 0; else all of them."""
    hidden = positions[mask == 0]
    return positions if hidden.view(np.uint32).any() else positions[mask != 0]


def _with_all_atoms(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with positions for every atom, 0 where not observed: what `_observed` did, undone."""
    mask, positions = arrays["atom_mask"], arrays["atom_positions"]
    if positions.shape[:-1] == mask.shape:
        return arrays
    every = np.zeros((*mask.shape, 3), positions.dtype)
    every[mask != 0] = positions
    every.flags.writeable = False
    return arrays | {"atom_positions": every}


@dataclass(frozen=True)
class _Coding:
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[memoryview, np.dtype, tuple[int, ...]], np.ndarray]


def _encode(x: np.ndarray, tried: tuple[str, ...]) -> tuple[str, bytes]:
    """The first of the `tried` codings that gives back the very bits of `x`, and what it makes of it."""
    assert x.dtype.newbyteorder("<").str in _DTYPES, x.dtype
    for name in tried:
        coding = _CODINGS[name]
        data = coding.encode(x)
        if coding.decode(memoryview(data), x.dtype, x.shape).tobytes() == x.tobytes():
            return name, data
    return "plain", _plain(x)


def _plain(x: np.ndarray) -> bytes:
    return x.astype(x.dtype.newbyteorder("<"), copy=False).tobytes()


def _from_plain(data: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape)


def _bits(x: np.ndarray) -> bytes:
    """A mask of 0 and 1, a bit each."""
    return np.packbits(x.ravel() != 0).tobytes()


def _from_bits(data: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(dtype).reshape(shape)


def _bytes(x: np.ndarray) -> bytes:
    """Whole numbers from 0 to 255, a byte each."""
    return x.astype(np.uint8).tobytes()


def _from_bytes(data: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(data, np.uint8).astype(dtype).reshape(shape)


def _sparse(x: np.ndarray) -> bytes:
    """Whole numbers that are mostly 0: the distances between the others, row by row, and their values."""
    flat = x.ravel()
    places = np.flatnonzero(flat)
    return _planes(np.diff(places, prepend=0).astype(np.uint32)) + _planes(flat[places].astype(np.uint32))


def _from_sparse(data: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    x = np.zeros(int(np.prod(shape)), dtype)
    half = len(data) // 2
    x[np.cumsum(_from_planes(data[:half]), dtype=np.int64)] = _from_planes(data[half:]).astype(dtype)
    return x.reshape(shape)


def _steps(x: np.ndarray) -> bytes:
    """Whole numbers that change little along the first dimension: their differences, modulo 2³², small if negative."""
    unsigned = x.reshape(len(x), x[:1].size).astype(np.int32).view(np.uint32)
    steps = np.diff(unsigned, axis=0, prepend=np.zeros_like(unsigned[:1])).view(np.int32)
    return _planes(((steps << 1) ^ (steps >> 31)).view(np.uint32))


def _from_steps(data: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    folded = _from_planes(data)
    steps = (folded >> 1) ^ (~(folded & 1) + np.uint32(1))
    return np.cumsum(steps.reshape(shape), axis=0, dtype=np.uint32).view(np.int32).astype(dtype)


def _thousandths(x: np.ndarray) -> bytes:
    """Numbers with at most three decimals, as coordinates and B-factors have in files: steps of whole thousandths."""
    whole = np.rint(x.astype(np.float64) * 1000)
    return _steps(np.where(np.abs(whole) < 2**31, whole, 0).astype(np.int32))


def _from_thousandths(data: memoryview, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return (_from_steps(data, np.dtype(np.int32), shape) / 1000).astype(dtype)


def _planes(x: np.ndarray) -> bytes:
    """uint32 numbers as all of their first bytes, then all of their second ones, …: the last ones are mostly 0."""
    return x.astype("<u4", copy=False).reshape(-1, 1).view(np.uint8).T.tobytes()


def _from_planes(data: memoryview) -> np.ndarray:
    """uint32 numbers, one-dimensional."""
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(4, -1).T).view("<u4").ravel()


_CODINGS = {
    "plain": _Coding(_plain, _from_plain),
    "bits": _Coding(_bits, _from_bits),
    "bytes": _Coding(_bytes, _from_bytes),
    "sparse": _Coding(_sparse, _from_sparse),
    "steps": _Coding(_steps, _from_steps),
    "thousandths": _Coding(_thousandths, _from_thousandths),
}
_TRIED = {
    "msa": (),
    "deletions": ("sparse",),
    "residue_index": ("steps",),
    "b_factor": ("thousandths",),
    "atom_mask": ("bits",),
    "atom_positions": ("thousandths",),
    "aatype": ("bytes",),
}
