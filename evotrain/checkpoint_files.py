"""The directory of a run's checkpoints, as files: which checkpoints are sound, and the JSON document in each.

Here is what of Orbax's layout must be known before Orbax may look at a directory: it trusts every file that it finds.
"""

import errno
import itertools
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

STATE = "state"  # the item of a checkpoint that holds the arrays
STEP_DOCUMENT = "_CHECKPOINT_METADATA"  # Orbax's JSON file of a step; its "custom_metadata" is ours
JSON_FILES = (STEP_DOCUMENT, f"{STATE}/_METADATA")
NEEDED_FILES = (*JSON_FILES, f"{STATE}/manifest.ocdbt")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def find_checkpoints(directory: Path, *, set_aside: bool) -> dict[int, dict[str, Any]]:
    """The sound checkpoints in `directory`: by step, the JSON document with the run's `meta` and its `metrics`.

    A damaged one is named in a warning and left out. With `set_aside` it is also renamed, so that the run can write its
    step again; it is never deleted.

    Raises:
      OSError: the directory cannot be read, or a damaged checkpoint not be renamed.
    """
    found = {}
    for path in sorted(directory.iterdir()) if directory.exists() else ():
        if not (path.is_dir() and re.fullmatch(r"0|[1-9]\d*", path.name)):
            continue
        try:
            found[int(path.name)] = _read_document(path)
        except ValueError as damage:
            if set_aside:
                names = (path.with_name(f"{path.name}.damaged{count or ''}") for count in itertools.count())
                aside = path.rename(next(name for name in names if not name.exists()))
                log.warning("checkpoint %s is damaged (%s): ignored, and now called %s", path, damage, aside.name)
            else:
                log.warning("checkpoint %s is damaged (%s): ignored", path, damage)
    return found


def _read_document(path: Path) -> dict[str, Any]:
    """The JSON document of the checkpoint at `path`; ValueError if its small files show damage."""
    for name in NEEDED_FILES:
        if not (path / name).is_file():
            raise ValueError(f"{name} is missing")
        if (path / name).stat().st_size == 0:
            raise ValueError(f"{name} is empty")
    contents = {}
    for name in JSON_FILES:
        try:
            contents[name] = json.loads((path / name).read_bytes())
        except ValueError:
            raise ValueError(f"{name} is not JSON") from None
    document = contents[STEP_DOCUMENT].get("custom_metadata") or {}
    if not {"meta", "metrics"} <= document.keys():
        raise ValueError(f"{STEP_DOCUMENT} was not written by evotrain")
    return document


def reason(error: BaseException) -> str:
    """Why a file operation failed, in a few words."""
    number = _error_number(error)
    if number is not None:
        return os.strerror(number)
    text = " ".join(str(error).split())
    return f"{text[:100]}…" if len(text) > 100 else text or type(error).__name__


def is_out_of_space(error: BaseException) -> bool:
    """Whether a write failed because the disk, the quota or the largest file size was reached."""
    return _error_number(error) in NO_SPACE


def _error_number(error: BaseException) -> int | None:
    """The operating system's error number, which TensorStore hides in the text of its exceptions."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    hidden = re.search(r"\[os_error_code='(\d+)'\]", str(error))
    return int(hidden.group(1)) if hidden else None
