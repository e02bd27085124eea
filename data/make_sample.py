"""Writes a tiny data set from evotrain's own generator of families: data/sample, and prepared data/sample_prepared.

    python data/make_sample.py

It needs no download, and running it again writes the same files.
"""

import contextlib
import csv
import gzip
import io
import shutil
from pathlib import Path

import gemmi
import numpy as np

from evotrain.compose import compose
from evotrain.data.formats.alignment import letters
from evotrain.data.generated.coevolution import generate_family
from evotrain.data.protein import CA_ATOM, CB_ATOM, Protein
from evotrain.data_config import CoevolutionConfig
from evotrain.prepare.command import prepare

SAMPLE = Path(__file__).resolve().parent / "sample"
SEED = 0
FAMILIES = CoevolutionConfig(crop=48, msa_clusters=32)
SPLITS = ("train", "train", "train", "train", "val", "val")
CHAIN, ENTITY = "A", "1"
COLUMNS = ("id", "chain", "split", "cluster")


def main() -> None:
    rows = []
    for index, split in enumerate(SPLITS):
        name = f"sample{index}"
        protein = generate_family(SEED, index, FAMILIES)
        folder = SAMPLE / name
        folder.mkdir(parents=True, exist_ok=True)
        write_gzip(folder / "msa.a3m.gz", a3m(name, protein))
        write_gzip(folder / "structure.cif.gz", mmcif(name, protein))
        rows.append((name, CHAIN, split, index))
    with (SAMPLE / "index.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    prepare_sample(SAMPLE, SAMPLE.with_name(f"{SAMPLE.name}_prepared"))


def prepare_sample(raw: Path, prepared: Path) -> None:
    """What command=prepare makes of the raw files, anew."""
    shutil.rmtree(prepared, ignore_errors=True)
    checkout = raw.parents[1]
    places = [f"data.root={raw.relative_to(checkout)}", f"prepare.out={prepared.relative_to(checkout)}"]
    with contextlib.chdir(checkout):  # prepared.json names the raw files: let it do so as a user would
        prepare(compose(["command=prepare", "data=msa_dir", *places, "prepare.workers=1"]))


def a3m(name: str, protein: Protein) -> str:
    """The alignment, query first. The generator makes no insertions, so every letter is a capital."""
    names = [name, *(f"{name}_{row}" for row in range(1, len(protein.msa)))]
    return "".join(f">{row_name}\n{letters(row)}\n" for row_name, row in zip(names, protein.msa, strict=True))


def mmcif(name: str, protein: Protein) -> str:
    """The observed Cα and Cβ of one chain."""
    chain = gemmi.Chain(CHAIN)
    for number, letter in enumerate(letters(protein.msa[0]), start=1):
        residue = gemmi.Residue()
        residue.name = gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA)
        residue.seqid = gemmi.SeqId(str(number))
        residue.label_seq, residue.subchain, residue.entity_id = number, CHAIN, ENTITY
        residue.entity_type = gemmi.EntityType.Polymer
        # Every residue of the generator has a Cβ; real glycine has none.
        for atom_name, slot in (("CA", CA_ATOM), ("CB", CB_ATOM)):
            if protein.atom_mask[number - 1, slot] and not (letter == "G" and atom_name == "CB"):
                residue.add_atom(carbon(atom_name, protein.atom_positions[number - 1, slot]))
        chain.add_residue(residue)

    entity = gemmi.Entity(ENTITY)
    entity.entity_type, entity.polymer_type = gemmi.EntityType.Polymer, gemmi.PolymerType.PeptideL
    entity.full_sequence = [residue.name for residue in chain]
    entity.subchains = [CHAIN]
    model = gemmi.Model(1)
    model.add_chain(chain)
    structure = gemmi.Structure()
    structure.name = name
    structure.add_model(model)
    structure.entities = gemmi.EntityList([entity])
    tables = gemmi.MmcifOutputGroups(False, block_name=True, entry=True, atoms=True, entity=True, entity_poly=True)
    tables.entity_poly_seq = tables.struct_asym = True
    return structure.make_mmcif_document(tables).as_string()


def carbon(name: str, position: np.ndarray) -> gemmi.Atom:
    atom = gemmi.Atom()
    atom.name = name
    atom.element = gemmi.Element("C")
    atom.pos = gemmi.Position(*(round(float(x), 3) for x in position))
    return atom


def write_gzip(path: Path, text: str) -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:  # no name and no date in the header
        file.write(text.encode())
    path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
