"""A random compact backbone: helices and strands side by side in layers, joined by loops.

The chain runs up and down through sites of a lattice. A layer of the lattice holds either the strands of one sheet or
a row of helices; which site comes next is random, so that neither the separation along the chain nor the place in the
chain tells which residues touch.

Legend: N residues, P points placed so far, K residues of a loop, A candidate loops. Coordinates are in Å; elements run
along z, a layer extends along x, layers are stacked along y.
"""

from dataclasses import dataclass

import numpy as np

from evotrain.contacts import LONG_RANGE

BOND = 3.8  # between consecutive Cα
HELIX_RISE, HELIX_RADIUS, HELIX_TURN = 1.5, 2.3, np.deg2rad(100.0)
STRAND_RISE, STRAND_PLEAT = 3.3, 0.94
HELIX_SPACING, STRAND_SPACING, LAYER_SPACING = 9.5, 4.8, 9.5
CLASH = 4.0  # closest approach of Cα that are not neighbours in the chain

# Direction of Cβ from Cα: away from both neighbours, normal to the plane of the three Cα, and along the chain. The mean
# over 1331 residues of crystal structures; it gives the L form.
CB_BOND = 1.53
CB_OUTWARD, CB_NORMAL, CB_ALONG = 0.77, -0.63, 0.11

TWIST_RANGE = (0.015, 0.045)  # radians by which the elements' axes turn per Å along x
LOOP_DIRECTIONS = 16
MIN_LOOP = 2
ATTEMPTS, SITE_DRAWS = 12, 8
CA_CONTACT = 8.0  # Å; the contacts that are scored are of Cβ, but a chain is judged before it has any
COMPACT = 0.5  # long-range pairs of Cα in contact for each residue that are enough; crystal structures have about 1


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Sites of the elements of one fold: positions [P, 2] of their axes in x and y, and whether each is a helix [P]."""

    sites: np.ndarray
    is_helix: np.ndarray
    thickness: float  # mean extent of an element along z
    twist: float


def compact_backbone(rng: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cα and Cβ of a random fold, float32 [length, 3] each, in Å, centred and randomly oriented.

    Consecutive Cα are 3.8 Å apart. A chain that clashes with itself or hardly folds back on itself is drawn again; of
    several such, the best is taken, so that every length gets an answer.
    """
    assert length >= 1, length
    best, least = np.zeros((length, 3)), np.inf
    for _ in range(ATTEMPTS):
        chain = _grow(rng, length)
        flaws = _flaws(chain)
        if flaws < least:
            best, least = chain, flaws
        if flaws == 0:
            break
    ca = (best - best.mean(0)) @ _random_rotation(rng)
    return ca.astype(np.float32), place_cb(ca).astype(np.float32)


def place_cb(ca: np.ndarray) -> np.ndarray:
    """Cβ [N, 3] of L-residues, right to about 0.4 Å, given the Cα trace [N, 3] in Å."""
    if len(ca) < 3:
        return ca + np.array([CB_BOND, 0.0, 0.0])
    before, after = ca[1:-1] - ca[:-2], ca[2:] - ca[1:-1]
    outward = _unit(before - after)
    normal = _unit(np.cross(before, after))
    offset = CB_BOND * _unit(CB_OUTWARD * outward + CB_NORMAL * normal + CB_ALONG * _unit(before + after))
    return ca + np.concatenate([offset[:1], offset, offset[-1:]])


def _draw_lattice(rng: np.random.Generator, length: int) -> Lattice:
    thickness = 4.0 * length ** (1 / 3) * rng.uniform(0.8, 1.2)
    # The lattice is a few times wider than the fold needs: sites are taken near the ones that are already filled.
    reach = 12.0 + 4.0 * length ** (1 / 3)
    first = rng.random() < 0.3
    layers = np.arange(-int(reach // LAYER_SPACING), int(reach // LAYER_SPACING) + 1)
    sites, is_helix = [], []
    for layer in layers:
        helical = bool(rng.random() < 0.7) if layer else bool(first)
        spacing = HELIX_SPACING if helical else STRAND_SPACING
        x = np.arange(-reach, reach, spacing) + rng.uniform(0, spacing)
        sites.append(np.stack([x, np.full_like(x, layer * LAYER_SPACING)], -1))
        is_helix.append(np.full(len(x), helical))
    return Lattice(
        sites=np.concatenate(sites),
        is_helix=np.concatenate(is_helix),
        thickness=thickness,
        twist=rng.uniform(*TWIST_RANGE),
    )


def _grow(rng: np.random.Generator, length: int) -> np.ndarray:
    """One chain of Cα [length, 3]."""
    lattice = _draw_lattice(rng, length)
    free = np.ones(len(lattice.sites), bool)
    site = int(np.argmin((lattice.sites**2).sum(-1) + rng.uniform(0, 30, len(free))))
    free[site] = False
    up = bool(rng.random() < 0.5)
    # The first element is cut at random, so that elements do not begin at the same residue in every family.
    chain = _element(rng, lattice, site, up)
    chain = chain[rng.integers(0, max(len(chain) - 3, 1)) :]
    while len(chain) < length:
        up = not up
        site, element, loop = _next_element(rng, lattice, free, site, up, chain)
        free[site] = False
        chain = np.concatenate([chain, loop, element])
    return chain[:length]


def _flaws(chain: np.ndarray) -> float:
    """The number of pairs of Cα that clash, plus the share of long-range contacts that a compact chain lacks."""
    length = len(chain)
    i, j = np.triu_indices(length, 3)
    distance = np.sqrt(((chain[i] - chain[j]) ** 2).sum(-1))
    clashes = int((distance < CLASH - 0.2).sum())
    if length < 2 * LONG_RANGE:
        return clashes  # too short to fold back that far
    contacts = int(((distance < CA_CONTACT) & (j - i >= LONG_RANGE)).sum())
    return clashes + max(0.0, 1 - contacts / (COMPACT * length))


def _next_element(
    rng: np.random.Generator, lattice: Lattice, free: np.ndarray, site: int, up: bool, chain: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray]:
    """A free site, the element on it and the loop that leads there: the first of a few draws that clashes nowhere."""
    sites, filled = lattice.sites, lattice.sites[~free]
    # Near elements other than the last one: that makes contacts between parts that are far apart in the chain.
    others = filled[(filled != sites[site]).any(-1)] if len(filled) > 1 else filled
    nearest = np.sqrt(((sites[:, None] - others) ** 2).sum(-1).min(1))
    step = np.sqrt(((sites - sites[site]) ** 2).sum(-1))
    spread = ((sites - filled.mean(0)) ** 2).sum(-1) / (2 * (1.0 + 2.0 * len(filled) ** 0.5) ** 2)
    # The small constant keeps a site available when everything near is taken.
    weight = free * (np.exp(-nearest / 2 - step / 30 - spread) + 1e-30)
    best, widest = None, -1.0
    for choice in rng.choice(len(sites), size=SITE_DRAWS, p=weight / weight.sum()):
        element = _element(rng, lattice, int(choice), up)
        clearance = _closest(element, chain)
        if clearance < CLASH and best is not None:
            continue
        loop, gap = _loop(rng, chain, element)
        gap = min(gap, clearance)
        if gap > widest:
            best, widest = (int(choice), element, loop), gap
        if gap >= CLASH:
            break
    return best


def _element(rng: np.random.Generator, lattice: Lattice, site: int, up: bool) -> np.ndarray:
    """Cα [K, 3] of the helix or strand on a site."""
    helix = lattice.is_helix[site]
    rise = HELIX_RISE if helix else STRAND_RISE
    low, high = lattice.thickness * (np.array([-0.5, 0.5]) + rng.uniform(-0.15, 0.15, 2))
    index = np.arange(max(int((high - low) / rise) + 1, 4))
    phase = rng.uniform(0, 2 * np.pi)
    if helix:
        # A right-handed helix turns counter-clockwise as it rises, whichever way it then points.
        turn = phase + HELIX_TURN * index * (1 if up else -1)
        x, y = HELIX_RADIUS * np.cos(turn), HELIX_RADIUS * np.sin(turn)
    else:
        x, y = np.zeros(len(index)), STRAND_PLEAT * (-1.0) ** (index + int(phase > np.pi))
    z = low + rise * index if up else high - rise * index
    shift = rng.normal(0, 0.3, 2)
    across, depth = lattice.sites[site] + shift
    y = y + depth
    angle = lattice.twist * across
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x + across, cos * y - sin * z, sin * y + cos * z], -1)


def _loop(rng: np.random.Generator, chain: np.ndarray, element: np.ndarray) -> tuple[np.ndarray, float]:
    """The loop [K, 3] from the chain's end to the element's start, and its closest approach to either in Å."""
    start, end = chain[-1], element[0]
    span = float(np.sqrt(((end - start) ** 2).sum()))
    shortest = max(MIN_LOOP, int(np.ceil(1.08 * span / BOND)) - 1)
    best = (np.zeros((0, 3)), -1.0)
    for residues in shortest + rng.permutation(3):
        arcs = _arcs(rng, start, end, span, int(residues))
        # Neighbours in the chain are always near: two residues on either side of each end do not count.
        obstacles = np.concatenate([chain[:-2], element[2:]])
        separation = ((arcs[:, :, None] - obstacles) ** 2).sum(-1).min((1, 2)) ** 0.5
        pick = int(np.argmax(np.minimum(separation, 4.5) + rng.uniform(0, 0.5, len(arcs))))
        gap = float(separation[pick])
        if gap > best[1]:
            best = arcs[pick], gap
        if gap >= CLASH:
            break
    return best


def _arcs(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, span: float, residues: int) -> np.ndarray:
    """Circular arcs [A, K, 3] of bonds of 3.8 Å between two points, one for each of several directions of bulging."""
    # n chords of a circle, each seen under the angle t, span BOND · sin(n t / 2) / sin(t / 2), which falls with t.
    chords = residues + 1
    low, high = 1e-6, 2 * np.pi / chords
    for _ in range(24):
        middle = (low + high) / 2
        if BOND * np.sin(chords * middle / 2) / np.sin(middle / 2) > span:
            low = middle
        else:
            high = middle
    radius = BOND / 2 / np.sin(low / 2)
    turn = low * (np.arange(1, chords) - chords / 2)
    along, out = radius * np.sin(turn), radius * (np.cos(turn) - np.cos(low * chords / 2))
    axis = (end - start) / span
    across = _unit(np.cross(axis, rng.normal(size=3)))
    angle = np.arange(LOOP_DIRECTIONS) * (2 * np.pi / LOOP_DIRECTIONS)
    bulge = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * np.cross(axis, across)
    return (start + end) / 2 + along[:, None] * axis + out[None, :, None] * bulge[:, None]


def _closest(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1).min()))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.sqrt((v**2).sum(-1, keepdims=True)), 1e-9)


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation [3, 3], uniform over all of them."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))
