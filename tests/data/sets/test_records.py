"""Records give back the very protein, and notice when they are damaged."""

from dataclasses import replace

import numpy as np
import pytest
from same_protein import assert_same_protein

from evotrain.data.protein import Protein, Templates
from evotrain.data.sets.records import MAGIC, decode_protein, encode_protein
from evotrain.errors import DataError


def _read_only(holder):
    for value in vars(holder).values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return holder


def _protein(rows=40, length=17, seed=0):
    """A protein as files make them: coordinates and B-factors in decimals, few deletions."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((length, 37)) < 0.3).astype(np.float32)
    positions = np.round(rng.uniform(-200, 200, (length, 37, 3)), 3).astype(np.float32) * mask[..., None]
    return _read_only(
        Protein(
            name="1abc_A",
            msa=rng.integers(0, 22, (rows, length)).astype(np.uint8),
            deletions=(rng.integers(0, 300, (rows, length)) * (rng.random((rows, length)) < 0.05)).astype(np.int32),
            atom_positions=np.where(mask[..., None] > 0, positions, np.float32(0)),
            atom_mask=mask,
            residue_index=np.arange(length, dtype=np.int32),
            b_factor=np.round(rng.uniform(0, 100, length), 2).astype(np.float32),
            resolution=1.85,
            release_date="2014-02-29",
        )
    )


def _templates(count, length, seed=1):
    rng = np.random.default_rng(seed)
    mask = (rng.random((count, length, 37)) < 0.2).astype(np.float32)
    positions = np.where(mask[..., None] > 0, rng.normal(size=(count, length, 37, 3)), 0).astype(np.float32)
    aatype = rng.integers(0, 22, (count, length)).astype(np.int32)
    return _read_only(Templates(aatype=aatype, atom_positions=positions, atom_mask=mask))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"templates": _templates(3, 17)},
        {"templates": _templates(0, 17)},
        {"name": "sélénium α"},
        {"resolution": 0.1 + 0.2},
        {"deletions": np.full((40, 17), 2**31 - 1, np.int32)},
        {"deletions": np.zeros((40, 17), np.int32)},
        {"residue_index": np.array([2**31 - 1, -(2**31), *range(15)], np.int32)},
        {"b_factor": np.array([np.pi, -0.0, 1e-45, 3e38, np.inf, np.nan, *range(11)], np.float32)},
        {"atom_mask": np.full((17, 37), 0.5, np.float32)},
        {"atom_mask": np.zeros((17, 37), np.float32)},
        {"atom_positions": np.random.default_rng(3).normal(size=(17, 37, 3)).astype(np.float32)},
        {"atom_positions": np.full((17, 37, 3), -0.0, np.float32)},
        {"atom_positions": np.full((17, 37, 3), 123456.789, np.float32)},
        {"atom_positions": np.full((17, 37, 3), np.nan, np.float32)},
    ],
)
def test_a_protein_comes_back_to_the_bit(change):
    protein = _read_only(replace(_protein(), **change))
    assert_same_protein(protein, decode_protein(encode_protein(protein)))


def test_one_residue_and_one_row():
    protein = _protein(rows=1, length=1)
    assert_same_protein(protein, decode_protein(encode_protein(protein)))


def test_a_protein_as_files_make_them_is_compact():
    protein = _protein(rows=500, length=100)
    record = encode_protein(protein)
    assert b"thousandths" in record[:1000]
    assert b"plain" in record[:1000]  # the alignment
    deleted, observed = np.count_nonzero(protein.deletions), np.count_nonzero(protein.atom_mask)
    assert len(record) < protein.msa.size + 8 * deleted + 12 * observed + 37 * 100 // 8 + 8 * 100 + 1000
    assert encode_protein(protein) == record


def test_any_damage_is_noticed():
    record = encode_protein(replace(_protein(rows=3, length=2), templates=_templates(1, 2)))
    for place in range(len(record)):
        damaged = bytearray(record)
        damaged[place] ^= 1 << (place % 8)
        with pytest.raises(DataError, match=r"^the record is damaged"):
            decode_protein(bytes(damaged))


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 12, 15, 16, 100, -1])
def test_a_part_of_a_record_is_noticed(kept):
    with pytest.raises(DataError, match=r"^the record is damaged"):
        decode_protein(encode_protein(_protein())[:kept])


def test_another_version_is_noticed():
    record = encode_protein(_protein())
    with pytest.raises(DataError, match=r"^the record is damaged, or of another version of evotrain\.$"):
        decode_protein(MAGIC.replace(b"1", b"2") + record[len(MAGIC) :])
