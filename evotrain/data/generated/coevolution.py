"""Protein families with a known answer: columns co-vary because their residues touch.

A compact backbone gives contacts. A Potts model whose couplings sit on the contacts is sampled by Gibbs sweeps along a
random phylogeny, so that rows are related as homologues are. The couplings are one table of residue pairs that all
families share, as physics is shared: what a network learns on some families holds for others.

Legend: M sequences, B lineages alive, N sites, K sites of one colour, Q = 20 residue types.
"""

from dataclasses import replace

import numpy as np

from evotrain.contacts import CONTACT_CUTOFF
from evotrain.data.generated.backbone import compact_backbone
from evotrain.data.protein import CA_ATOM, CB_ATOM, NUM_ATOMS, RESIDUES, Protein
from evotrain.data_config import CoevolutionConfig

Q = len(RESIDUES)
MIN_SEPARATION = 4  # neighbours in the chain touch in every fold and would teach nothing
FIELD_STRENGTH = 0.5  # standard deviation of the site fields: how conserved a column is by itself
BURN_IN = 10  # sweeps before the first lineage splits
SWEEPS_OF_SHORT_BRANCH = 2  # sweeps that a branch shorter than this is spread over
TABLE_SEED = 20


def _flat_table(gaussian: np.ndarray) -> np.ndarray:
    """A symmetric float32 table [Q, Q] of unit variance and zero row sums, from a Gaussian one.

    With zero row sums a contact changes which residues occur together but not how often each occurs. For the same
    reason all eigenvalues but that of the constant vector are made equally large: the leading one of a Gaussian table
    would let a few residues take over every site, and columns that do not vary cannot co-vary.
    """
    table = gaussian + gaussian.T
    table = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    value, vector = np.linalg.eigh(table)
    sign = np.where(np.abs(value) < 1e-9, 0.0, np.sign(value))
    table = (vector * sign) @ vector.T
    return (table / table.std()).astype(np.float32)


PAIR_TABLE = _flat_table(np.random.default_rng(TABLE_SEED).standard_normal((Q, Q)))


def generate_family(seed: int | tuple[int, ...], index: int, config: CoevolutionConfig) -> Protein:
    """Family `index` of the stream `seed`: a pure function of the two and of the config.

    Of the config only what says how hard a family is counts: `family_size`, `coupling` (not negative), `branch_sweeps`
    (positive) and `family_noise`. All rows of the alignment are leaves of the phylogeny, no column has a gap, and Cα
    and Cβ are observed at every residue.
    """
    stream = (seed,) if isinstance(seed, int) else tuple(seed)
    rng = np.random.default_rng((*stream, index))
    length, rows = family_size(config)
    ca, cb = compact_backbone(rng, length)
    positions = np.zeros((length, NUM_ATOMS, 3), np.float32)
    positions[:, CA_ATOM], positions[:, CB_ATOM] = ca, cb
    mask = np.zeros((length, NUM_ATOMS), np.float32)
    mask[:, [CA_ATOM, CB_ATOM]] = 1
    return Protein(
        name="-".join(map(str, ("family", *stream, index))),
        msa=_sample_alignment(rng, contact_map(cb), rows, config),
        deletions=np.zeros((rows, length), np.int32),
        atom_positions=positions,
        atom_mask=mask,
        residue_index=np.arange(length, dtype=np.int32),
        b_factor=np.zeros(length, np.float32),
    )


def family_size(config: CoevolutionConfig) -> tuple[int, int]:
    """Residues and sequences of a family."""
    length = config.crop if config.length is None else config.length
    return length, config.msa_clusters if config.depth is None else config.depth


def contact_map(cb: np.ndarray) -> np.ndarray:
    """Which residues are coupled: bool [N, N], given Cβ [N, 3] in Å."""
    distance = np.sqrt(((cb[:, None] - cb[None]) ** 2).sum(-1))
    index = np.arange(len(cb))
    return (distance < CONTACT_CUTOFF) & (np.abs(index[:, None] - index) >= MIN_SEPARATION)


def shuffle_columns(protein: Protein, rng: np.random.Generator) -> Protein:
    """The same protein with every column of its alignment permuted by itself over all rows but the query.

    Column compositions stay, co-evolution goes; a deletion stays with its residue.
    """
    order = rng.permuted(np.tile(np.arange(1, len(protein.msa)), (protein.msa.shape[1], 1)), axis=1).T
    msa, deletions = protein.msa.copy(), protein.deletions.copy()
    msa[1:] = np.take_along_axis(protein.msa, order, 0)
    deletions[1:] = np.take_along_axis(protein.deletions, order, 0)
    return replace(protein, msa=msa, deletions=deletions)


def _sample_alignment(
    rng: np.random.Generator, contacts: np.ndarray, rows: int, config: CoevolutionConfig
) -> np.ndarray:
    """Leaves of a random phylogeny, uint8 [rows, N]."""
    length = len(contacts)
    deviation = _flat_table(rng.standard_normal((Q, Q)))
    table = PAIR_TABLE + np.float32(config.family_noise) * deviation
    # A residue with many contacts would freeze: each coupling is weakened by how crowded its two ends are.
    ends = (np.sqrt(config.coupling) * np.maximum(contacts.sum(0), 1) ** -0.25).astype(np.float32)
    fields = (FIELD_STRENGTH * rng.standard_normal((length, Q))).astype(np.float32)
    groups = _independent_sites(rng, contacts)
    state = rng.integers(0, Q, (length, 1))
    for _ in range(BURN_IN):
        _sweep(rng, state, groups, ends, fields, table)
    # A short branch is made of sweeps that leave most sites alone, not of fewer sweeps: lineages that split in the same
    # sweep would be the same sequence.
    activity = min(1.0, config.branch_sweeps / SWEEPS_OF_SHORT_BRANCH)
    for splits in _lineage_splits(rng, rows, config.branch_sweeps / activity):
        for _ in range(splits):
            parent = rng.integers(state.shape[1])
            state = np.concatenate([state, state[:, parent : parent + 1]], 1)
        _sweep(rng, state, groups, ends, fields, table, activity)
    return np.ascontiguousarray(state[:, rng.permutation(rows)].T, dtype=np.uint8)


def _lineage_splits(rng: np.random.Generator, leaves: int, branch_sweeps: float) -> list[int]:
    """How many lineages split before each sweep, in a tree where every lineage is as likely to split next.

    With k lineages the next split is an exponential time of rate k away (the Yule process), which gives short and long
    branches; times are scaled so that the mean branch lasts `branch_sweeps` sweeps.
    """
    if leaves == 1:
        return []
    lineages = np.arange(1, leaves + 1)
    waits = rng.exponential(1 / lineages)
    waits[0] = 0  # the burn-in is the stem
    branches = 2 * leaves - 2
    times = np.cumsum(waits) * (branch_sweeps * branches / (lineages * waits).sum())
    return np.bincount(np.ceil(times[:-1]).astype(int), minlength=int(np.ceil(times[-1]))).tolist()


def _independent_sites(rng: np.random.Generator, contacts: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Groups of sites without contacts among them, which one Gibbs step may update together.

    Each is a pair of sites [K] and their neighbours [K, D], filled up with N where a site has fewer than D.
    """
    length = len(contacts)
    degree = contacts.sum(0)
    colour = np.full(length, -1)
    # Crowded sites first: they have the least choice.
    for site in np.argsort(-degree + rng.random(length)):
        taken = set(colour[contacts[site]].tolist())
        colour[site] = next(c for c in range(length) if c not in taken)
    # In each row the neighbours' indices first, then N.
    neighbours = np.sort(np.where(contacts, np.arange(length), length), 1)
    groups = [np.flatnonzero(colour == c) for c in range(colour.max() + 1)]
    return [(sites, neighbours[sites, : degree[sites].max()]) for sites in groups]


def _sweep(
    rng: np.random.Generator,
    state: np.ndarray,
    groups: list[tuple[np.ndarray, np.ndarray]],
    ends: np.ndarray,
    fields: np.ndarray,
    table: np.ndarray,
    activity: float = 1.0,
) -> None:
    """One Gibbs sweep over all lineages; `state` [N, B] changes in place, each site with probability `activity`.

    Sites i and j that touch couple by ends_i · ends_j · table. Plain sums over the few neighbours, and not a matrix
    product: its rounding would depend on the number of threads, and a family on the machine's load.
    """
    length, lineages = state.shape
    # What each residue says to its neighbours, [N + 1, Q, B]; nothing in the last row, which fills up the neighbours.
    message = np.zeros((length + 1, Q, lineages), np.float32)
    message[:-1] = ends[:, None, None] * table.T[state].transpose(0, 2, 1)
    for sites, neighbours in groups:
        end = ends[sites, None, None]
        logits = end * message[neighbours].sum(1) + fields[sites, :, None]
        logits -= logits.max(1, keepdims=True)
        cumulative = np.cumsum(np.exp(logits), 1)
        threshold = rng.random((len(sites), 1, lineages), np.float32) * cumulative[:, -1:]
        # The draw is below 1, but its product may round up to the total.
        chosen = np.minimum((cumulative <= threshold).sum(1), Q - 1)
        if activity < 1:
            chosen = np.where(rng.random(chosen.shape, np.float32) < activity, chosen, state[sites])
        state[sites] = chosen
        message[sites] = end * table.T[chosen].transpose(0, 2, 1)
