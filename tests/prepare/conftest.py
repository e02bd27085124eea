"""A set of seven proteins, and what `command=prepare` makes of it; no test changes them."""

import pytest
from made_sets import write_raw_set
from small_jobs import NAMES, content, prepare_set


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """Seven proteins, of which one cannot be read."""
    return write_raw_set(tmp_path_factory.mktemp("made") / "raw", NAMES, templates=("p1",), broken=("p4",))


@pytest.fixture(scope="session")
def expected(raw, tmp_path_factory):
    """What one job with one process makes of it, two proteins a file."""
    out = tmp_path_factory.mktemp("expected") / "out"
    prepare_set(raw, out)
    return content(out)
