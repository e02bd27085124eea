"""The features and labels of one training example, under AlphaFold's names (AlphaFold 2, Suppl. 1.2).

`example` makes the random draws; what it calls are pure functions of arrays and of these draws. Crop and rows are
chosen first, so that the cost of an example does not depend on the length of the protein. Dimensions: R passes of the
network, S cluster centres, E rows of the extra MSA, T templates, N residues of the crop.
"""

from dataclasses import dataclass

import numpy as np

from evotrain.config import Config
from evotrain.data.features import msa as transforms
from evotrain.data.features.labels import structure_labels
from evotrain.data.features.templates import choose_templates, template_features
from evotrain.data.protein import GAP, Protein, pseudo_beta

Features = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ExampleShape:
    """What an example holds, and how large it is."""

    crop: int  # N, residues
    msa_clusters: int  # S, rows of the MSA
    extra_msa: int = 0  # E, rows of the extra MSA; 0: no features of it
    templates: int = 0  # T; 0: no features of them
    passes: int = 1  # R, each with its own sample of the alignment
    structure: bool = False  # labels of all atoms, frames and torsion angles
    mask_fraction: float  # of the MSA's positions, hidden


def example_shape(config: Config) -> ExampleShape:
    """The examples that the configured model eats. `config.data` must be a choice with alignments."""
    return ExampleShape(
        crop=config.data.crop,
        msa_clusters=config.data.msa_clusters,
        extra_msa=config.data.extra_msa,
        templates=config.data.templates,
        passes=config.model.recycles + 1,
        structure=config.model.structure.layers > 0,
        mask_fraction=config.data.mask_fraction,
    )


def example(protein: Protein, rng: np.random.Generator, shape: ExampleShape, *, training: bool = True) -> Features:
    """The features and labels of one example, zero-padded to `shape`. Coordinates are in Å.

    The crop is contiguous and begins at a random residue. Each pass has its own cluster centres, its own hidden
    positions and its own extra MSA. In training a random number of random templates is shown, else the best.

    Returns, float32 where not said otherwise: aatype int32 [N], residue_index int32 [N], seq_mask [N],
    target_feat [N, 22], pseudo_beta [N, 3], pseudo_beta_mask [N]; msa_feat [R, S, N, 49], msa_mask [R, S, N], true_msa
    int32 [R, S, N], bert_mask [R, S, N]; with an extra MSA extra_msa int32, extra_has_deletion, extra_deletion_value
    and extra_msa_mask, all [R, E, N]; with templates what `templates.template_features` returns; with `shape.structure`
    what `labels.structure_labels` returns, and resolution [] in Å, 0 where unknown.
    """
    start = int(rng.integers(max(protein.msa.shape[1] - shape.crop, 0) + 1))
    window = slice(start, start + shape.crop)
    passes = _msa_passes(protein.msa[:, window], protein.deletions[:, window], rng, shape)

    aatype = protein.msa[0, window].astype(np.int32)
    positions, mask = protein.atom_positions[window], protein.atom_mask[window]
    beta, beta_mask = pseudo_beta(aatype, positions, mask)
    residues = {
        "aatype": aatype,
        "residue_index": protein.residue_index[window].astype(np.int32),
        "seq_mask": np.ones(len(aatype), np.float32),
        "target_feat": target_feat(aatype),
        "pseudo_beta": beta,
        "pseudo_beta_mask": beta_mask,
    }
    if shape.structure:
        residues |= structure_labels(aatype, positions, mask)
    features = passes | {name: _pad(x, shape.crop) for name, x in residues.items()}
    if shape.structure:
        features["resolution"] = np.float32(protein.resolution)
    if shape.templates:
        chosen = choose_templates(protein.templates, rng if training else None, shape.templates)
        given = template_features(protein.templates, chosen, window)
        features |= {name: _pad(x, *(shape.templates, shape.crop)[: min(x.ndim, 2)]) for name, x in given.items()}
    return features


def _msa_passes(msa: np.ndarray, deletions: np.ndarray, rng: np.random.Generator, shape: ExampleShape) -> Features:
    """The MSA features of every pass, padded, with a leading dimension of passes; `msa`, `deletions` are [M, N]."""
    profile = transforms.msa_profile(msa)
    stacked: Features = {}
    for i in range(shape.passes):
        for name, x in _msa_features(msa, deletions, profile, rng, shape).items():
            rows = shape.extra_msa if name.startswith("extra_") else shape.msa_clusters
            if i == 0:
                stacked[name] = np.zeros((shape.passes, rows, shape.crop, *x.shape[2:]), x.dtype)
            stacked[name][i, : x.shape[0], : x.shape[1]] = x
    return stacked


def _msa_features(
    msa: np.ndarray, deletions: np.ndarray, profile: np.ndarray, rng: np.random.Generator, shape: ExampleShape
) -> Features:
    """The MSA features of one pass, not padded."""
    rows, others = transforms.split_rows(rng.permutation(len(msa) - 1), shape.msa_clusters)
    true_msa = msa[rows]
    hidden = rng.random(true_msa.shape) < shape.mask_fraction
    shown = transforms.mask_msa(true_msa, profile, hidden, rng.random(true_msa.shape))
    assignment = transforms.assign_clusters(shown, msa[others])
    cluster_profile, deletion_mean = transforms.summarize_clusters(
        shown, deletions[rows], msa[others], deletions[others], assignment
    )
    features = {
        "msa_feat": transforms.msa_feat(shown, deletions[rows], cluster_profile, deletion_mean),
        "msa_mask": np.ones(true_msa.shape, np.float32),
        "true_msa": true_msa.astype(np.int32),
        "bert_mask": hidden.astype(np.float32),
    }
    if shape.extra_msa:
        extra = others[: shape.extra_msa]  # in random order already
        features |= {
            "extra_msa": msa[extra].astype(np.int32),
            "extra_has_deletion": transforms.has_deletion(deletions[extra]),
            "extra_deletion_value": transforms.scale_deletions(deletions[extra]),
            "extra_msa_mask": np.ones((len(extra), msa.shape[1]), np.float32),
        }
    return features


def target_feat(aatype: np.ndarray) -> np.ndarray:
    """Query features float32 [N, 22]: the flag of a break between segments, never set for a chain; the residue type."""
    return np.eye(GAP + 1, dtype=np.float32)[aatype + 1]


def _pad(x: np.ndarray, *sizes: int) -> np.ndarray:
    """`x` with zeros after its end, so that its first dimensions have these sizes."""
    padded = np.zeros((*sizes, *x.shape[len(sizes) :]), x.dtype)
    padded[tuple(slice(size) for size in x.shape[: len(sizes)])] = x
    return padded
