"""Stereochemistry that a prediction violates: peptide bonds, clashes between residues, distances within them.

AlphaFold 2, Suppl. 1.9.11, with the quirks of its published code, which are named where they stand. Bonds and
angles may deviate by 12 standard deviations, and atoms may overlap by 1.5 Å.

Positions are in Å and whole. What a function returns by residue, it returns for the device's share of the residues.

Dimensions: N residues, R a device's share of them, A and B atoms of the residues one after another.
"""

import jax
import jax.numpy as jnp
import numpy as np

from evotrain.data.protein import C_ATOM, CA_ATOM, N_ATOM, RESIDUES
from evotrain.losses.geometry import distances
from evotrain.parallel.context import shard, sum_shards
from evotrain.residues import (
    ATOM14_EXISTS,
    ATOM14_TO_ATOM37,
    CA_CA_DISTANCE,
    COS_C_N_CA,
    COS_C_N_CA_STDDEV,
    COS_CA_C_N,
    PEPTIDE_BOND_LENGTH,
    PEPTIDE_BOND_LENGTH_STDDEV,
    PROLINE_BOND_LENGTH,
    PROLINE_BOND_LENGTH_STDDEV,
    RESIDUE_ATOM14_NAMES,
    VAN_DER_WAALS_RADII,
    atom14_distance_bounds,
)

TOLERANCE = 12.0  # standard deviations
OVERLAP = 1.5  # Å
BROKEN = 1.5  # Å, beyond the usual distance of neighbouring Cα atoms
EPSILON = 1e-6  # in the denominator of a loss, and in the root of lengths along the chain
DISTANCE_EPSILON = 1e-10  # Å², in the root of other distances
SHARE_EPSILON = 1e-10  # in the denominator of a metric
PROLINE, CYSTEINE = RESIDUES.index("P"), RESIDUES.index("C")
SULPHUR = RESIDUE_ATOM14_NAMES[CYSTEINE].index("SG")

Example = dict[str, jax.Array]


def violation_loss(positions: jax.Array, example: Example) -> jax.Array:
    """The sum of the bond, angle and clash losses of predicted positions [N, 14, 3] -> []."""
    exists, aatype = atoms_that_exist(example), example["aatype"]
    bonds, _ = peptide_bonds(positions, exists, example["residue_index"], aatype)
    clash_R, _ = clashes(positions, exists, example["residue_index"], aatype)
    within_R, _ = within_residues(positions, exists, aatype)
    return bonds + sum_shards(jnp.sum(clash_R + within_R)) / (EPSILON + jnp.sum(exists))


def violation_metrics(positions: jax.Array, example: Example) -> dict[str, jax.Array]:
    """The shares of residues that violate something, and of neighbours whose Cα atoms are too far apart.

    Predicted positions [N, 14, 3] -> {"violation/…": []}.
    """
    exists, residue_index, aatype = atoms_that_exist(example), example["residue_index"], example["aatype"]
    _, bond_R = peptide_bonds(positions, exists, residue_index, aatype)
    _, clash_R = clashes(positions, exists, residue_index, aatype)
    _, within_R = within_residues(positions, exists, aatype)

    def share(violated_R: jax.Array) -> jax.Array:
        residues = SHARE_EPSILON + jnp.sum(example["seq_mask"])
        return sum_shards(jnp.sum(violated_R * shard(example["seq_mask"], 0))) / residues

    return {
        "violation/bond": share(bond_R),
        "violation/clash": share(clash_R),
        "violation/within_residue": share(within_R),
        "violation/any": share(bond_R | clash_R | within_R),
        "violation/broken_chain": _broken_chain(positions[:, CA_ATOM], exists[:, CA_ATOM], residue_index),
    }


def atoms_that_exist(example: Example) -> jax.Array:
    """Which of the 14 atoms the residues of an example have, observed or not -> [N, 14]."""
    seq_mask = example["seq_mask"]
    return jnp.asarray(ATOM14_EXISTS)[example["aatype"]] * seq_mask[:, None]


def peptide_bonds(
    positions: jax.Array, exists: jax.Array, residue_index: jax.Array, aatype: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The mean losses of C–N bond lengths and of the two angles at the bond, summed, and which residues violate one.

    positions [N, 14, 3], exists [N, 14], residue_index and aatype [N] -> [], bool [R].
    """
    ca, c, n = (positions[:, atom] for atom in (CA_ATOM, C_ATOM, N_ATOM))
    to_ca, to_n, onwards = ca - c, _next(n) - c, _next(ca - n)
    bond = _length(to_n)
    cos_at_c = jnp.sum(to_ca * to_n, axis=-1) / (_length(to_ca) * bond)
    cos_at_n = jnp.sum(-to_n * onwards, axis=-1) / (bond * _length(onwards))

    proline = _next(aatype) == PROLINE  # its ring changes the bond
    length = jnp.where(proline, PROLINE_BOND_LENGTH, PEPTIDE_BOND_LENGTH)
    stddev = jnp.where(proline, PROLINE_BOND_LENGTH_STDDEV, PEPTIDE_BOND_LENGTH_STDDEV)
    bonded = exists[:, C_ATOM] * _next(exists[:, N_ATOM]) * _has_next(residue_index)
    terms = [
        _flat_bottom(bond, length, stddev, bonded),
        # The published code takes the deviation of the bond's length for that of the cosine.
        _flat_bottom(cos_at_c, COS_CA_C_N, PEPTIDE_BOND_LENGTH_STDDEV, bonded * exists[:, CA_ATOM]),
        _flat_bottom(cos_at_n, COS_C_N_CA, COS_C_N_CA_STDDEV, bonded * _next(exists[:, CA_ATOM])),
    ]
    violated = terms[0][1] | terms[1][1] | terms[2][1]
    return sum(loss for loss, _ in terms), shard(violated | jnp.roll(violated, 1), 0)


def clashes(
    positions: jax.Array, exists: jax.Array, residue_index: jax.Array, aatype: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """By how much each residue's atoms overlap, in Å, with atoms of other residues, and which residues do.

    positions [N, 14, 3], exists [N, 14], residue_index and aatype [N] -> [R], bool [R]. A pair counts for both.
    """
    atom37 = jnp.asarray(ATOM14_TO_ATOM37)[aatype]
    (exists_A, exists_B), (radius_A, radius_B), (residue_A, residue_B), (atom_A, atom_B) = (
        (shard(x, 0).reshape(-1, 1), x.reshape(1, -1))
        for x in (
            exists,
            jnp.asarray(VAN_DER_WAALS_RADII)[atom37],
            jnp.broadcast_to(residue_index[:, None], exists.shape),
            jnp.broadcast_to(jnp.arange(exists.shape[1])[None], exists.shape),
        )
    )
    allowed = (residue_A + 1 == residue_B) & (atom_A == C_ATOM) & (atom_B == N_ATOM)
    allowed |= (residue_A == residue_B + 1) & (atom_A == N_ATOM) & (atom_B == C_ATOM)
    # Disulphide bridges; the published code allows it to the sixth atoms of any two residues, not only to cysteines'.
    allowed |= (atom_A == SULPHUR) & (atom_B == SULPHUR)
    apart = distances(shard(positions, 0).reshape(-1, 3), positions.reshape(-1, 3), DISTANCE_EPSILON)
    overlap = jax.nn.relu(radius_A + radius_B - OVERLAP - apart) * exists_A * exists_B
    overlap = jnp.where((residue_A == residue_B) | allowed, 0.0, overlap).reshape(-1, exists.shape[1] * exists.size)
    return jnp.sum(overlap, axis=1), jnp.any(overlap > 0, axis=1)


def within_residues(positions: jax.Array, exists: jax.Array, aatype: jax.Array) -> tuple[jax.Array, jax.Array]:
    """By how much, in Å, distances within each residue are out of bounds, and which residues have such a distance.

    positions [N, 14, 3], exists [N, 14], aatype [N] -> [R], bool [R]. A pair counts twice for each of its atoms, as in
    the published code.
    """
    positions, exists, aatype = (shard(x, 0) for x in (positions, exists, aatype))
    lower, upper = (jnp.asarray(bound)[aatype] for bound in atom14_distance_bounds(OVERLAP, TOLERANCE))
    others = 1 - np.eye(exists.shape[1], dtype=exists.dtype)
    apart = jax.vmap(lambda atoms: distances(atoms, atoms, DISTANCE_EPSILON))(positions)
    excess = jax.nn.relu(lower - apart) + jax.nn.relu(apart - upper)
    excess *= exists[:, :, None] * exists[:, None] * others[None]
    return 2.0 * jnp.sum(excess, axis=(1, 2)), jnp.any(excess > 0, axis=(1, 2))


def _next(x: jax.Array) -> jax.Array:
    """What belongs to the next residue; the last residue has none, which `_has_next` says."""
    return jnp.roll(x, -1, axis=0)


def _has_next(residue_index: jax.Array) -> jax.Array:
    """Whether the next residue is bonded to a residue: no gap is between them -> bool [N]."""
    return jnp.append(residue_index[1:] - residue_index[:-1] == 1, False)


def _flat_bottom(
    value: jax.Array, ideal: jax.Array | float, stddev: jax.Array | float, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The mean of what deviations [N] exceed the tolerance by -> [], and which do -> bool [N]."""
    excess = jax.nn.relu(jnp.sqrt(EPSILON + jnp.square(value - ideal)) - TOLERANCE * stddev) * mask
    return sum_shards(jnp.sum(shard(excess, 0))) / (jnp.sum(mask) + EPSILON), excess > 0


def _broken_chain(ca: jax.Array, exists: jax.Array, residue_index: jax.Array) -> jax.Array:
    """The share of neighbours whose Cα atoms [N, 3] are more than 1.5 Å farther apart than usual."""
    mask = exists * _next(exists) * _has_next(residue_index)
    broken = _length(_next(ca) - ca) > CA_CA_DISTANCE + BROKEN
    return sum_shards(jnp.sum(shard(mask * broken, 0))) / (jnp.sum(mask) + SHARE_EPSILON)


def _length(vector: jax.Array) -> jax.Array:
    return jnp.sqrt(EPSILON + jnp.sum(jnp.square(vector), axis=-1))
