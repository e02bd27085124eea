"""The features and labels of one training example, under AlphaFold's names (AlphaFold 2, Suppl. 1.2).

`example` makes the random draws; what it calls are pure functions of arrays and of these draws. As in AlphaFold,
residues are hidden and rows assigned to clusters over the whole protein, before the crop. Dimensions: R passes of the
network, S cluster centres, E rows of the extra MSA, T templates, L residues of the protein, N of the crop.
"""

from dataclasses import dataclass

import numpy as np

from evotrain.config import Config
from evotrain.data.features import msa as transforms
from evotrain.data.features.crop import Residues, contiguous_crop, crop_starts, spatial_crop
from evotrain.data.features.labels import structure_labels
from evotrain.data.features.templates import choose_templates, template_features
from evotrain.data.protein import CA_ATOM, GAP, Protein, pseudo_beta
from evotrain.data_config import AlignmentConfig

Features = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class ExampleShape:
    """What an example holds, and how large it is."""

    crop: int  # N, residues
    msa_clusters: int  # S, rows of the MSA
    extra_msa: int = 0  # E, rows of the extra MSA; 0: no features of it
    templates: int = 0  # T; 0: no features of them
    template_angles: bool = True  # features of which rows of the MSA are made, too
    passes: int = 1  # R, each with its own sample of the alignment
    structure: bool = False  # labels of all atoms, frames and torsion angles
    mask_fraction: float  # of the MSA's positions, hidden
    block_deletions: int = 0  # blocks of rows that each pass of a training example deletes from the alignment
    block_fraction: float = 0.3  # rows of such a block, relative to the alignment
    spatial_crop: float = 0.0  # share of training examples cropped in space


def example_shape(config: Config) -> ExampleShape:
    """The examples that the configured model eats. `config.data` must be a choice with alignments."""
    data = config.data
    augmentation = {}
    if isinstance(data, AlignmentConfig):  # generated families have none
        augmentation = {
            "block_deletions": data.block_deletions,
            "block_fraction": data.block_fraction,
            "spatial_crop": data.spatial_crop,
        }
    return ExampleShape(
        crop=data.crop,
        msa_clusters=data.msa_clusters,
        extra_msa=data.extra_msa,
        templates=data.templates,
        template_angles=config.model.template.angles,
        passes=config.model.recycles + 1,
        structure=config.model.structure.layers > 0,
        mask_fraction=data.mask_fraction,
        **augmentation,
    )


def example(
    protein: Protein,
    rng: np.random.Generator,
    shape: ExampleShape,
    *,
    training: bool = True,
    max_rows: int | None = None,
) -> Features:
    """The features and labels of one example, zero-padded to `shape`. Coordinates are in Å.

    The crop is contiguous and begins at a random residue; in training, `shape.spatial_crop` of the crops are instead
    what is next to a random observed residue in space. Each pass has its own cluster centres, hidden positions and
    extra MSA, and in training its own deleted blocks of the alignment; with `max_rows` each shows a random sample of
    its own, of at most so many of the rows that are left. The profile that hidden positions are replaced from is that
    of the whole alignment. In training a random number of random templates is shown, else the best.

    Returns, float32 where not said otherwise: aatype int32 [N], residue_index int32 [N], seq_mask [N],
    target_feat [N, 22], pseudo_beta [N, 3], pseudo_beta_mask [N]; msa_feat [R, S, N, 49], msa_mask [R, S, N], true_msa
    int32 [R, S, N], bert_mask [R, S, N]; with an extra MSA extra_msa int32, extra_has_deletion, extra_deletion_value
    and extra_msa_mask, all [R, E, N]; with templates what `templates.template_features` returns; with `shape.structure`
    what `labels.structure_labels` returns, and resolution [] in Å, 0 where unknown.
    """
    residues = _choose_residues(protein, rng, shape, training)
    indexed = transforms.index_msa(protein.msa, protein.deletions, residues)
    passes = _msa_passes(indexed, rng, shape, blocks=shape.block_deletions if training else 0, max_rows=max_rows)

    single = _residue_features(protein, residues, structure=shape.structure)
    features = passes | {name: _pad(x, shape.crop) for name, x in single.items()}
    if shape.structure:
        features["resolution"] = np.float32(protein.resolution)
    if shape.templates:
        chosen = choose_templates(protein.templates, rng if training else None, shape.templates)
        given = template_features(protein.templates, chosen, residues, angles=shape.template_angles)
        features |= {name: _pad(x, *(shape.templates, shape.crop)[: min(x.ndim, 2)]) for name, x in given.items()}
    return features


def _choose_residues(protein: Protein, rng: np.random.Generator, shape: ExampleShape, training: bool) -> Residues:
    """The crop. No number is drawn for what is not asked for, so that it does not change the other draws."""
    length = protein.msa.shape[1]
    if training and shape.spatial_crop and length > shape.crop and rng.random() < shape.spatial_crop:
        ca_mask = protein.atom_mask[:, CA_ATOM]
        observed = np.flatnonzero(ca_mask)
        if len(observed):
            center = observed[rng.integers(len(observed))]
            return spatial_crop(protein.atom_positions[:, CA_ATOM], ca_mask, center, shape.crop)
    return contiguous_crop(length, shape.crop, int(rng.integers(crop_starts(length, shape.crop))))


def _residue_features(protein: Protein, residues: Residues, *, structure: bool) -> Features:
    """The features of the query and its labels, not padded."""
    aatype = protein.msa[0, residues].astype(np.int32)
    positions, mask = protein.atom_positions[residues], protein.atom_mask[residues]
    beta, beta_mask = pseudo_beta(aatype, positions, mask)
    features = {
        "aatype": aatype,
        "residue_index": protein.residue_index[residues].astype(np.int32),
        "seq_mask": np.ones(len(aatype), np.float32),
        "target_feat": target_feat(aatype),
        "pseudo_beta": beta,
        "pseudo_beta_mask": beta_mask,
    }
    return features | structure_labels(aatype, positions, mask) if structure else features


def _msa_passes(
    indexed: transforms.IndexedMsa,
    rng: np.random.Generator,
    shape: ExampleShape,
    *,
    blocks: int,
    max_rows: int | None,
) -> Features:
    """The MSA features of every pass, padded, with a leading dimension of passes."""
    depth = len(indexed.msa)
    kept = np.arange(depth)
    stacked: Features = {}
    for i in range(shape.passes):
        if blocks:
            kept = transforms.delete_blocks(depth, rng.integers(depth, size=blocks), shape.block_fraction)
        for name, x in _msa_features(indexed, kept, rng, shape, max_rows).items():
            rows = shape.extra_msa if name.startswith("extra_") else shape.msa_clusters
            if i == 0:
                stacked[name] = np.zeros((shape.passes, rows, shape.crop, *x.shape[2:]), x.dtype)
            stacked[name][i, : x.shape[0], : x.shape[1]] = x
    return stacked


def _msa_features(
    indexed: transforms.IndexedMsa,
    kept: np.ndarray,
    rng: np.random.Generator,
    shape: ExampleShape,
    max_rows: int | None,
) -> Features:
    """The MSA features of one pass over at most `max_rows` of the rows `kept`, the query first; not padded."""
    order = rng.permutation(len(kept) - 1)
    centres, others = transforms.split_rows(kept, order, shape.msa_clusters, max_rows)
    true_msa, deletions = indexed.msa[centres], indexed.deletions[centres]
    hidden = rng.random(true_msa.shape) < shape.mask_fraction
    shown = transforms.mask_msa(true_msa, indexed.profile, hidden, rng.random(true_msa.shape))
    assignment = transforms.assign_clusters(shown, indexed.bits.take(others, axis=-1))
    true_msa, hidden, shown = (x[:, indexed.residues] for x in (true_msa, hidden, shown))
    profile, deletion_mean = transforms.summarize_clusters(shown, centres, others, assignment, indexed)
    features = {
        "msa_feat": transforms.msa_feat(shown, deletions, profile, deletion_mean),
        "msa_mask": np.ones(true_msa.shape, np.float32),
        "true_msa": true_msa.astype(np.int32),
        "bert_mask": hidden.astype(np.float32),
    }
    if shape.extra_msa:
        extra = others[: shape.extra_msa]  # in random order already
        extra_deletions = indexed.deletions[extra]
        features |= {
            "extra_msa": indexed.msa[extra][:, indexed.residues].astype(np.int32),
            "extra_has_deletion": transforms.has_deletion(extra_deletions),
            "extra_deletion_value": transforms.scale_deletions(extra_deletions),
            "extra_msa_mask": np.ones(extra_deletions.shape, np.float32),
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
