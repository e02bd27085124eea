import numpy as np

from evotrain.data.protein import NUM_ATOMS, Protein
from evotrain.data.sets.facts import Facts, facts_of


def test_facts_of_a_protein():
    length = 8
    protein = Protein(
        name="a",
        msa=np.array([[0, 3, 3, 3, 7, 20, 19, 3], [21] * 8, [1] * 8], np.uint8),
        deletions=np.zeros((3, length), np.int32),
        atom_positions=np.zeros((length, NUM_ATOMS, 3), np.float32),
        atom_mask=np.zeros((length, NUM_ATOMS), np.float32),
        residue_index=np.arange(length, dtype=np.int32),
        b_factor=np.zeros(length, np.float32),
        resolution=2.5,
        release_date="2001-02-03",
    )
    assert facts_of(protein) == Facts(length=8, rows=3, resolution=2.5, release_date="2001-02-03", repeat=0.5)
