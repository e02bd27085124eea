"""An mmCIF or PDB file as gemmi's structure, with what its header says of the experiment."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import gemmi

from evotrain.data.formats.files import read_text
from evotrain.errors import DataError

_FORMAT_NAMES = {gemmi.CoorFormat.Mmcif: "mmCIF", gemmi.CoorFormat.Pdb: "PDB"}
# The first word that is no comment, and the records of atoms in a PDB file.
_FIRST_WORD = re.compile(rb"^[^\S\n]*([^\s#]\S*)", re.MULTILINE)
_ATOM_RECORD = re.compile(rb"^(ATOM  |HETATM)", re.MULTILINE)
# Columns 31-54 of an atom are its coordinates: gemmi takes what is no number there, as of an overflow, for 0. A pattern
# that starts with letters is searched several times faster than one that starts with a line or a choice.
_NO_COORDINATES = [re.compile(rb"\n%s.{24}(?: {24}|(?![ 0-9.+-]{24}))" % record) for record in (b"ATOM  ", b"HETATM")]
_LINE_OF_ERROR = re.compile(r"(?:string:|Problem in line )(\d+)[^ ]*:? (?:in \S+: )?")
# Where an mmCIF names a resolution: of the refined model first, last of the diffraction data.
_RESOLUTION_TAGS = ("_refine.ls_d_res_high", "_em_3d_reconstruction.resolution", "_reflns.d_resolution_high")
# Dates of an entry's releases, today and in files of before 2017.
_RELEASE_TAGS = ("_pdbx_audit_revision_history.revision_date", "_database_PDB_rev.date")
_REVDAT = re.compile(rb"^REVDAT +\d+ +(\d\d)-([A-Z]{3})-(\d\d)", re.MULTILINE)
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]


@dataclass(frozen=True)
class Entry:
    """A structure with at least one model that has atoms; its residues know their places in SEQRES where it is told."""

    path: Path
    structure: gemmi.Structure
    is_mmcif: bool
    resolution: float  # of the experiment in Å, 0 where the file names none (as for NMR and predictions)
    release_date: str  # YYYY-MM-DD, "" where the file names none


def read_entry(path: Path) -> Entry:
    """Read an mmCIF or PDB file, plain or gzip; its content tells which, not its name.

    The release date is the earliest of the revision history (mmCIF) or of REVDAT (PDB): a date of deposition does not
    count, for releases come months later. Raises DataError for a file that is neither or holds no atoms.
    """
    text = read_text(path)
    form = _format(path, text)
    if form == gemmi.CoorFormat.Pdb:
        _check_coordinates(path, b"\n" + text)
    document = gemmi.cif.Document()
    try:
        structure = gemmi.read_structure_string(text, format=form, save_doc=document)
        if form == gemmi.CoorFormat.Mmcif:
            _add_entities(structure, document[0])
        structure.setup_entities()
        structure.assign_label_seq_id()
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:
        raise _unreadable(path, form, str(error)) from None
    if not len(structure) or not structure[0].count_atom_sites():
        raise DataError(f"{path}: holds no atoms; mmCIF needs its _atom_site table, PDB its ATOM records.")
    if form == gemmi.CoorFormat.Mmcif:
        return Entry(path, structure, True, _resolution(document[0]), _release_date(document[0]))
    resolution = structure.resolution if 0 < structure.resolution < math.inf else 0.0
    return Entry(path, structure, False, resolution, _pdb_release_date(text))


def _format(path: Path, text: bytes) -> gemmi.CoorFormat:
    """mmCIF or PDB, by the content."""
    first_word = _FIRST_WORD.search(text)
    if first_word is None:
        raise DataError(f"{path}: the file is empty; give the structure as mmCIF or PDB.")
    if first_word[1].lower().startswith(b"data_"):
        return gemmi.CoorFormat.Mmcif
    if _ATOM_RECORD.search(text):
        return gemmi.CoorFormat.Pdb
    if b"dataBlocks" in text and b"_atom_site" in text:
        raise DataError(f"{path}: is BinaryCIF, which is not read; give the same entry as mmCIF (.cif or .cif.gz).")
    raise DataError(
        f"{path}: is neither mmCIF, which starts with data_, nor PDB, which has ATOM records; give one of the two."
    )


def _check_coordinates(path: Path, lines: bytes) -> None:
    """`lines` of a PDB file, each after its '\\n'."""
    damaged = [found.start() for pattern in _NO_COORDINATES if (found := pattern.search(lines))]
    if damaged:
        line = lines.count(b"\n", 0, min(damaged)) + 1
        raise DataError(f"{path}, line {line}: the atom's coordinates are not three numbers; correct or remove it.")


def _add_entities(structure: gemmi.Structure, block: gemmi.cif.Block) -> None:
    """Sequences of files without an _entity table, as AlphaFold's tools write for templates: gemmi reads them by it."""
    if len(structure.entities):
        return
    sequences: dict[str, dict[str, str]] = {}
    for entity, number, monomer in block.find("_entity_poly_seq.", ["entity_id", "num", "mon_id"]):
        sequences.setdefault(entity, {}).setdefault(number, monomer)  # the first of several residues at one place
    for label, name in block.find("_struct_asym.", ["id", "entity_id"]):
        entity = gemmi.Entity(name)
        entity.subchains = [gemmi.cif.as_string(label)]
        entity.full_sequence = list(sequences.get(name, {}).values())
        if entity.full_sequence:
            entity.entity_type = gemmi.EntityType.Polymer
            structure.entities.append(entity)


def _unreadable(path: Path, form: gemmi.CoorFormat, message: str) -> DataError:
    """gemmi's message as a sentence, with the line if it tells one."""
    line = _LINE_OF_ERROR.match(message)
    where = f"{path}, line {line[1]}" if line else path
    reason = " ".join(message[line.end() if line else 0 :].removeprefix("string:").rstrip(".").split())
    return DataError(f"{where}: cannot be read as {_FORMAT_NAMES[form]} ({reason}); correct it or copy the file again.")


def _resolution(block: gemmi.cif.Block) -> float:
    # gemmi.Structure has it of a whole _refine record only, and files of few records have the one number.
    numbers = (gemmi.cif.as_number(value) for tag in _RESOLUTION_TAGS for value in block.find_values(tag))
    return next((number for number in numbers if 0 < number < math.inf), 0.0)


def _release_date(block: gemmi.cif.Block) -> str:
    values = (gemmi.cif.as_string(value) for tag in _RELEASE_TAGS for value in block.find_values(tag))
    return min((date for date in values if re.fullmatch(r"\d{4}-\d\d-\d\d", date)), default="")


def _pdb_release_date(text: bytes) -> str:
    header = text[: _ATOM_RECORD.search(text).start()]
    dates = []
    for day, month, year in (map(bytes.decode, found) for found in _REVDAT.findall(header)):
        if month in _MONTHS:
            century = 19 if int(year) > 70 else 20  # the PDB opened in 1971
            dates.append(f"{century}{year}-{_MONTHS.index(month) + 1:02d}-{day}")
    return min(dates, default="")
