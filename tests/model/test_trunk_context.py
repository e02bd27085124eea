"""The modules around the Evoformer stack compute on a context mesh what they compute on one device, with dropout.

The last of four extra sequences and two of eight residues are padding, so that everything on one of four shards is.
"""

import pytest
from context_mesh import assert_equal_on_context_mesh
from trunk_parts import arguments, params, program

SIZES = {
    "extra_msa": {"sequences": 4, "residues": 8},
    "template": {"templates": 2, "residues": 8},
    "recycling": {"sequences": 4, "residues": 8},
}
WHOLE = {"recycling": ("recycled_m",)}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_module_on_a_context_mesh(name: str, devices: int):
    inputs, given = arguments(name, **SIZES[name])
    assert_equal_on_context_mesh(
        program(name, seed=0), params(name), inputs, given, devices=devices, whole=WHOLE.get(name, ())
    )
