"""Where the files of each protein are, in the layouts in which alignments and structures are kept.

    <root>/<id>/msa.a3m …              an alignment of any format; else
    <root>/<id>/features.npz           the features that AlphaFold's data pipeline writes; else
    <root>/<id>/uniref90_hits.sto …    what AlphaFold's, OpenFold's and OpenProteinSet's searches write
    <root>/<id>.a3m                    ColabFold's; the root may also be this one file

    <root>/<id>/structure.cif …, <root>/<id>/labels.npz or <root>/<id>.cif …; else
    <structures>/<id>.cif … or <structures>/<PDB entry>.cif … where the id is <PDB entry>_<chain>

    <root>/<id>/templates.npz, those of features.npz, or a list of hits, <root>/<id>/pdb70_hits.hhr …

Text may be gzip. What is in a folder's subfolders a3m, hhr, msas and alignments counts as if it were in the folder.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evotrain.data.formats.alignment import SUFFIXES as ALIGNMENT_SUFFIXES
from evotrain.data.formats.files import patiently, split_name
from evotrain.data.formats.template_arrays import TEMPLATE_FILE
from evotrain.errors import DataError

FEATURE_FILE, LABEL_FILE = "features.npz", "labels.npz"
STRUCTURE_SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")
SUBFOLDERS = ("a3m", "hhr", "msas", "alignments")
FLAT_ALIGNMENTS = (".a3m", ".a3m.gz")

# What the searches of each database are called, in the order in which AlphaFold merges them, and the rows of each that
# it uses; None: all.
DATABASES = {
    "uniref90_hits": 10_000,
    "bfd_uniclust_hits": None,
    "bfd_uniref_hits": None,
    "small_bfd_hits": None,
    "uniref30_hits": None,
    "uniclust30_hits": None,
    "uniclust30": None,  # OpenProteinSet's set of predictions
    "mgnify_hits": 501,
}
HIT_FILES = ("pdb70_hits.hhr", "pdb_hits.hhr", "pdb_hits.sto", "hmm_output.sto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a protein is read from: paths relative to the root's directory, or absolute."""

    alignments: tuple[tuple[str, int | None], ...] = ()  # to be merged in this order; rows of each that count
    features: str | None = None  # in place of alignments
    structure: str | None = None
    labels: str | None = None  # in place of a structure
    templates: str | None = None
    hits: str | None = None  # where templates are to be looked up and are not there
    chain: str | None = None  # that the id names, where the structure is of the entry


class _Unusable(Exception):
    """Why a folder is no protein."""


# The files of one id by their names without .gz and without folders, each with its paths.
_Present = dict[str, list[str]]


def find_proteins(root: Path, structures: Path | None, *, with_hits: bool) -> tuple[dict[str, Files], dict[str, str]]:
    """The files of each protein by id, and why other folders are none; without an alignment and a structure, neither.

    Lists of hits are looked for `with_hits` alone. Lists each folder once. Raises DataError for a directory that cannot
    be listed or holds no protein, and RunError where the disk or network fails.
    """
    folders, names = _list_root(root)
    elsewhere = {} if structures is None else _list_structures(structures)
    flat = _flat_files(names)
    files: dict[str, Files] = {}
    unusable: dict[str, str] = {}
    for name in sorted(folders | {name for name, present in flat.items() if "msa.a3m" in present}):
        try:
            present = _list_folder(root, name) if name in folders else {}
            for key, paths in flat.get(name, {}).items():
                present.setdefault(key, []).extend(paths)
            found = _choose(name, present, elsewhere, with_hits)
        except _Unusable as reason:
            unusable[_as_text(name)] = str(reason)
            continue
        if found is None:
            continue
        if name == _as_text(name):
            files[name] = found
        else:
            unusable[_as_text(name)] = "has a name that is no UTF-8: rename it"
    if not files:
        raise DataError(
            f"data.root={root}: none of its {len(folders)} folders is a protein"
            + (f"; {left_out(unusable)}" if unusable else "")
            + "; each needs msa.a3m[.gz] and structure.cif[.gz] or structure.pdb[.gz] (other layouts: data/README.md)."
        )
    return files, unusable


def left_out(unusable: dict[str, str]) -> str:
    """A clause that counts what is left out and names the first; there must be one."""
    name, reason = next(iter(unusable.items()))
    if len(unusable) == 1:
        return f"1 folder left out ({name} {reason})"
    return f"{len(unusable)} folders left out ({name} {reason}, …)"


def entry_of(name: str) -> tuple[str, str] | None:
    """PDB entry and chain of an id <PDB entry>_<chain>; None for another id."""
    entry, underscore, chain = name.rpartition("_")
    return (entry, chain) if underscore and entry and chain else None


def _as_text(name: str) -> str:
    r"""The name, with \xff in the place of such bytes as are no UTF-8, which no table, hash or console takes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _choose(name: str, present: _Present, elsewhere: dict[str, str], with_hits: bool) -> Files | None:
    """What counts of the files that are there; None if that is neither an alignment nor a structure."""
    features = structure = labels = chain = None
    if alignment := _only(name, present, _named("msa", ALIGNMENT_SUFFIXES)):
        alignments = ((alignment, None),)
    elif features := _only(name, present, (FEATURE_FILE,)):
        alignments = ()
    else:
        searches = ((_only(name, present, _named(s, ALIGNMENT_SUFFIXES)), most) for s, most in DATABASES.items())
        alignments = tuple((path, most) for path, most in searches if path is not None)
    if not (structure := _only(name, present, _named("structure", STRUCTURE_SUFFIXES))):
        labels = _only(name, present, (LABEL_FILE,))
    aligned, solved = bool(alignments or features), bool(structure or labels)
    if aligned and not solved:
        structure, chain = _find_structure(name, elsewhere)
    elif solved and not aligned:
        raise _Unusable("has no alignment")
    if not aligned:
        return None
    templates = _only(name, present, (TEMPLATE_FILE,))
    return Files(
        alignments=alignments,
        features=features,
        structure=structure,
        labels=labels,
        templates=templates,
        hits=_only(name, present, HIT_FILES) if with_hits and templates is None else None,
        chain=chain,
    )


def _named(stem: str, suffixes: Iterable[str]) -> list[str]:
    return [stem + suffix for suffix in suffixes]


def _only(name: str, present: _Present, files: Iterable[str]) -> str | None:
    """The path of the one of these files that is there, None if none is."""
    paths = [path for file in files for path in present.get(file, ())]
    if len(paths) > 1:
        first, second = (path.removeprefix(f"{name}/") for path in paths[:2])
        raise _Unusable(f"has both {first} and {second}")
    return paths[0] if paths else None


def _find_structure(name: str, elsewhere: dict[str, str]) -> tuple[str, str | None]:
    """The structure of an id in the directory of structures, and the chain that the id names where it is an entry."""
    if name in elsewhere:
        return elsewhere[name], None
    if not elsewhere or (parts := entry_of(name)) is None:
        raise _Unusable(f"has no structure, and data.structures no {name}.cif" if elsewhere else "has no structure")
    entry, chain = parts
    for spelling in (entry, entry.lower(), entry.upper()):
        if spelling in elsewhere:
            return elsewhere[spelling], chain
    raise _Unusable(f"has no structure, and data.structures neither {name}.cif nor {entry}.cif")


def _list_root(root: Path) -> tuple[set[str], list[str]]:
    """Folders and files of the root; of a root that is an alignment, the files beside it with its name."""
    if root.name.endswith(FLAT_ALIGNMENTS) and root.is_file():
        stem = split_name(root.name)[0]
        _, names = _list_directory(root.parent)
        return set(), [root.name, *(name for name in names if split_name(name) in _structures_of(stem))]
    try:
        folders, names = _list_directory(root)
    except FileNotFoundError:
        raise DataError(f"data.root={root}: no such directory (it would be {root.absolute()}).") from None
    except OSError as error:
        raise DataError(f"data.root={root}: cannot be listed as a directory ({error.strerror}).") from None
    return set(folders), names


def _structures_of(stem: str) -> list[tuple[str, str]]:
    return [(stem, suffix) for suffix in STRUCTURE_SUFFIXES]


def _list_directory(path: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a directory, links followed. Raises as `patiently` does."""
    return patiently(path, lambda: _scan(path))


def _scan(path: Path) -> tuple[list[str], list[str]]:
    folders, names = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file():
                names.append(entry.name)
    return folders, names


def _list_folder(root: Path, name: str) -> _Present:
    present: _Present = {}
    try:
        folders, names = _list_directory(root / name)
        files = [f"{name}/{file}" for file in sorted(names)]
        for folder in SUBFOLDERS:
            if folder in folders:
                inside = f"{name}/{folder}"
                files += [f"{inside}/{file}" for file in sorted(_list_directory(root / inside)[1])]
    except OSError as error:
        raise _Unusable(f"cannot be read ({error.strerror})") from None
    for path in files:
        present.setdefault(path.rpartition("/")[2].removesuffix(".gz"), []).append(path)
    return present


def _flat_files(names: Iterable[str]) -> dict[str, _Present]:
    """The alignments and structures that stand in the root itself by id, as if they were in folders."""
    flat: dict[str, _Present] = {}
    for name in sorted(names):
        stem, suffix = split_name(name)
        if suffix == ".a3m":
            flat.setdefault(stem, {}).setdefault("msa.a3m", []).append(name)
        elif suffix in STRUCTURE_SUFFIXES:
            flat.setdefault(stem, {}).setdefault(f"structure{suffix}", []).append(name)
    return flat


def _list_structures(directory: Path) -> dict[str, str]:
    """Absolute paths of the structures in a directory, or in the two-letter folders of one as the PDB has it, by name.

    Of several forms of one structure the first of STRUCTURE_SUFFIXES counts.
    """
    found: dict[tuple[str, str], str] = {}
    base = str(directory.absolute())
    try:
        folders, names = _list_directory(directory)
        paths = [(name, f"{base}/{name}") for name in names]
        for folder in folders:
            if len(folder) == 2:
                paths += [(name, f"{base}/{folder}/{name}") for name in _list_directory(directory / folder)[1]]
    except FileNotFoundError:
        raise DataError(f"data.structures={directory}: no such directory (it would be {base}).") from None
    except OSError as error:
        raise DataError(f"data.structures={directory}: cannot be listed as a directory ({error.strerror}).") from None
    for name, path in paths:
        found[split_name(name)] = path
    return {
        stem: path
        for suffix in reversed(STRUCTURE_SUFFIXES)
        for (stem, of_file), path in found.items()
        if of_file == suffix
    }
