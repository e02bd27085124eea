"""Proteins that must be the same to the bit."""

import numpy as np


def assert_same_protein(one, other):
    """The same to the bit, also in dtypes and shapes."""
    assert type(one) is type(other)
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        found = getattr(other, name)
        if isinstance(value, np.ndarray):
            assert (found.dtype, found.shape) == (value.dtype, value.shape), name
            assert found.tobytes() == value.tobytes(), name
            assert found.flags.c_contiguous, name
            assert not found.flags.writeable, name
        elif hasattr(value, "__dataclass_fields__"):
            assert_same_protein(value, found)
        else:
            assert (type(found), found) == (type(value), value), name
