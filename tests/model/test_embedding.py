"""The input embedding and both encodings of relative positions."""

import jax
import numpy as np
import pytest
from flax import nnx

from evotrain.config import ModelConfig
from evotrain.model.embedding import (
    MAX_RELATIVE,
    MSA_FEATURES,
    SINUSOID_CHANNELS,
    TARGET_FEATURES,
    ClippedPosition,
    InputEmbedding,
    SinusoidalPosition,
)
from evotrain.model.layers import Policy

SEQUENCES, RESIDUES = 3, 5
RESIDUE_INDEX = np.array([0, 1, 7, 40, 120])  # with gaps, as in a crop of unresolved parts
OFFSETS = RESIDUE_INDEX[:, None] - RESIDUE_INDEX[None]


def model(position: str = "clipped") -> ModelConfig:
    return ModelConfig(blocks=1, c_m=6, c_z=4, msa_heads=1, pair_heads=1, c_triangle=4, position=position)


def test_clipped_positions_are_classes_of_the_distance_along_the_chain():
    position = ClippedPosition(model(), policy=Policy(), rngs=nnx.Rngs(0))
    assert position.project.weights.shape == (65, 4)
    # Class 0: 32 or more residues before; class 64: 32 or more after.
    classes = np.array([[min(max(i - j + 32, 0), 64) for j in RESIDUE_INDEX] for i in RESIDUE_INDEX])
    assert MAX_RELATIVE == 32
    assert classes[0, 4] == 0
    assert classes[4, 0] == 64
    np.testing.assert_allclose(position(OFFSETS), np.asarray(position.project.weights[...])[classes], rtol=1e-6)


def test_sinusoidal_positions_are_sines_and_cosines_of_the_signed_distance():
    position = SinusoidalPosition(model(), policy=Policy(), rngs=nnx.Rngs(0))
    weights = np.eye(SINUSOID_CHANNELS, 4, dtype=np.float32)
    weights[32:36] = np.eye(4)  # sine plus cosine of each of the first four frequencies
    position.project.weights[...] = weights
    angles = OFFSETS[..., None] * 10_000.0 ** (-np.arange(4) / 32)
    np.testing.assert_allclose(position(OFFSETS), np.sin(angles) + np.cos(angles), atol=2e-5)


@pytest.mark.parametrize("position", ["clipped", "sinusoidal"])
def test_embedding_adds_features_of_sequences_and_of_both_residues(position: str):
    rng = np.random.default_rng(0)
    target = rng.normal(size=(RESIDUES, TARGET_FEATURES)).astype(np.float32)
    msa = rng.normal(size=(SEQUENCES, RESIDUES, MSA_FEATURES)).astype(np.float32)
    embedding = InputEmbedding(model(position), policy=Policy(), rngs=nnx.Rngs(0))
    m, z = jax.jit(embedding)(target, msa, RESIDUE_INDEX)

    def linear(layer: str, x: np.ndarray) -> np.ndarray:
        return x @ np.asarray(getattr(embedding, layer).weights[...])

    np.testing.assert_allclose(m, linear("msa", msa) + linear("target", target)[None], atol=1e-5)
    pair = linear("left", target)[:, None] + linear("right", target)[None]
    np.testing.assert_allclose(z, pair + embedding.position(OFFSETS), atol=1e-5)
