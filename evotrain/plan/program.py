"""The training step of a configuration, traced for a mesh without its data, and without its devices."""

import jax
import numpy as np
from jax.sharding import Mesh

from evotrain.config import Config
from evotrain.data.features.example import example, example_shape
from evotrain.data.pipeline import shapes_of_batch
from evotrain.data.protein import NUM_ATOMS, Protein, Templates
from evotrain.data.sources import Example, open_source
from evotrain.data_config import AlignmentConfig
from evotrain.state import abstract_state
from evotrain.step import train_step


def traced_step(config: Config, mesh: Mesh) -> jax.stages.Traced:
    """The jitted step of `command=train`, traced; `config.mesh` is resolved."""
    return train_step(config, mesh).trace(
        abstract_state(config, mesh), shapes_of_batch(an_example(config), config, mesh)
    )


def an_example(config: Config) -> Example:
    """An example with the arrays of those that the configured data would give; no file is read."""
    if not isinstance(config.data, AlignmentConfig):
        return open_source(config).train(0)
    protein = _any_protein(config.data.crop)
    return example(protein, np.random.default_rng(0), example_shape(config)) | {"skipped": np.float32(0)}


def _any_protein(residues: int) -> Protein:
    atoms = (residues, NUM_ATOMS)
    return Protein(
        name="any",
        msa=np.zeros((2, residues), np.uint8),
        deletions=np.zeros((2, residues), np.int32),
        atom_positions=np.zeros((*atoms, 3), np.float32),
        atom_mask=np.ones(atoms, np.float32),
        residue_index=np.arange(residues, dtype=np.int32),
        b_factor=np.zeros(residues, np.float32),
        resolution=0.0,
        templates=Templates(
            aatype=np.zeros((1, residues), np.int32),
            atom_positions=np.zeros((1, *atoms, 3), np.float32),
            atom_mask=np.ones((1, *atoms), np.float32),
        ),
    )
