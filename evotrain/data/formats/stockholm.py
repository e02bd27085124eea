"""Stockholm alignments, as Pfam, HMMER and AlphaFold's pipeline write them: in one block or several (interleaved)."""

from pathlib import Path

from evotrain.data.formats.rows import Rows, make_rows
from evotrain.errors import DataError

STOCKHOLM = b"# STOCKHOLM"

_Line = tuple[str, int, bytes]  # name, line number, letters


def stockholm_rows(path: Path, text: bytes) -> Rows:
    """The rows of the alignment; annotation (#=GF, #=GS, #=GR, #=GC, comments) is passed over.

    A blank line ends a block, and every block holds the same rows in the same order. A name that comes again within
    a block is another row of that name (Pfam lists a sequence twice), unless the whole list of names comes again:
    then the blocks were written without blank lines. Joining whatever has the same name, as readers by name do, would
    make one row of the two, longer than the others.

    Raises DataError for a file that does not end with '//' (it was cut off), that holds a second alignment, or whose
    blocks or rows do not fit together.
    """
    blocks = [part for block in _blocks(path, text) for part in _unjoined(block)]
    if not blocks:
        raise DataError(f"{path}: the alignment holds no sequence; its first row must be the query.")
    names = [name for name, _, _ in blocks[0]]
    for block in blocks:
        _check_block(path, names, block)
    # Row by row, each through all blocks.
    lines = [(row, line) for row, parts in enumerate(zip(*blocks, strict=True)) for line in parts]
    return make_rows(
        names,
        [number for _, number, _ in blocks[0]],
        [letters for _, (_, _, letters) in lines],
        [row for row, _ in lines],
        [number for _, (_, number, _) in lines],
    )


def _blocks(path: Path, text: bytes) -> list[list[_Line]]:
    """The lines of sequences, in blocks that blank lines part."""
    blocks: list[list[_Line]] = [[]]
    ended = False
    for number, line in enumerate(text.split(b"\n"), start=1):
        line = line.strip()
        if not line:
            blocks.append([])
        elif ended:
            raise DataError(f"{path}, line {number}: a second alignment starts here; keep one in a file.")
        elif line == b"//":
            ended = True
        elif not line.startswith(b"#"):
            words = line.split()
            if len(words) != 2:
                raise DataError(f"{path}, line {number}: a row is its name and its letters, not {len(words)} words.")
            blocks[-1].append((words[0].decode("utf-8", "replace"), number, words[1]))
    if not ended:
        raise DataError(f"{path}: the file ends without '//', so it may be cut off; copy it again.")
    return [block for block in blocks if block]


def _unjoined(block: list[_Line]) -> list[list[_Line]]:
    """The block itself, or its parts if it is the same list of names several times over."""
    size = len({name for name, _, _ in block})
    parts = [block[start : start + size] for start in range(0, len(block), size)]
    names = [[name for name, _, _ in part] for part in parts]
    return parts if all(part == names[0] for part in names) else [block]


def _check_block(path: Path, names: list[str], block: list[_Line]) -> None:
    """Every block has the same names, and rows of one length."""
    width = len(block[0][2])
    for row, (name, number, letters) in enumerate(block):
        if row >= len(names) or name != names[row]:
            expected = f"{names[row]!r} of the first block" if row < len(names) else "the end of the block"
            raise DataError(f"{path}, line {number}: row {name!r} stands where {expected} is expected.")
        if len(letters) != width:
            raise DataError(
                f"{path}, line {number}: row {name!r} has {len(letters)} columns, but the block's first has {width}."
            )
    if len(block) < len(names):
        raise DataError(
            f"{path}, line {block[-1][1]}: the block ends here without row {names[len(block)]!r} of the first block."
        )
