"""The numbers of `command=info`: parameters, the part of a device, representations."""

import math

import jax
import numpy as np
import pytest

from evotrain.compose import compose
from evotrain.data.features.padding import pad
from evotrain.errors import ConfigError
from evotrain.model.network import network
from evotrain.model_summary import NOTHING, ORDER, Summary, memory, summarise
from evotrain.parallel.mesh import make_mesh
from evotrain.state import abstract_state, initial_state

AF2 = ("+experiment=af2_initial", "data.root=/nowhere")
PTM = ("model.structure.aligned_error=true", "model.loss.aligned_error=0.1")
ONE = "mesh.data=1"


def summary_of(*overrides: str) -> Summary:
    return summarise(compose(["command=info", *overrides]))


@pytest.fixture(scope="module")
def af2() -> Summary:
    """AlphaFold 2 with all of its heads, over more devices than there are."""
    return summary_of(*AF2, *PTM, "mesh.data=2", "mesh.fsdp=16", "mesh.context=4")


@pytest.fixture(scope="module")
def tiny() -> Summary:
    return summary_of(f"mesh.data={jax.device_count() // 8}", "mesh.fsdp=4", "mesh.context=2")


def test_alphafold_has_the_published_number_of_parameters(af2):
    (head,) = (module for module in af2.modules if module.name == "aligned_error")
    assert af2.parameters - head.parameters == 93_229_082  # as many as are in params_model_1.npz
    assert af2.parameters == sum(x.size for x in jax.tree.leaves(network(af2.config)[1]))
    assert af2.memory["parameters"].whole == 4 * af2.parameters
    assert af2.state.whole == 16 * af2.parameters + 16  # two moments, the average, and four counters


@pytest.mark.parametrize("which", ["af2", "tiny"])
def test_modules_add_up(which, request):
    summary = request.getfixturevalue(which)
    outer = [module for module in summary.modules if module.depth == 0]
    assert sum(module.parameters for module in outer) == summary.parameters
    assert sum((module.params for module in outer), NOTHING) == summary.memory["parameters"]
    state = sum((module.state for module in outer), NOTHING)
    assert (summary.state.whole - state.whole, summary.state.device - state.device) == (16, 16)
    blocks = [module for module in summary.modules if module.name in ORDER["evoformer"]]
    (evoformer,) = (module for module in outer if module.name == "evoformer")
    assert sum(module.parameters for module in blocks) == evoformer.parameters
    assert {module.layers for module in blocks} == {evoformer.layers} == {summary.config.model.blocks}


def test_modules_are_in_the_order_of_the_network(af2):
    assert [module.name for module in af2.modules if module.depth == 0] == list(ORDER[""])
    start = [module.name for module in af2.modules].index("evoformer") + 1
    assert tuple(module.name for module in af2.modules[start : start + 9]) == ORDER["evoformer"]
    for parent in ORDER:
        inside = [array.module for array in af2.arrays if not parent or array.module[0] == parent]
        depth = 1 if parent else 0
        assert {module[depth] for module in inside} == {*ORDER[parent]}, parent


def test_a_device_holds_its_share_of_alphafold(af2):
    state = jax.eval_shape(lambda: initial_state(af2.config, jax.random.key(0)))
    for parts in (1, 2, 4, 8, 16, 64):
        held = memory(state, parts).values()
        share = sum(part.device for part in held) / sum(part.whole for part in held)
        assert share <= (1.05 if parts > 1 else 1) / parts, parts
    assert af2.evenness(af2.state) <= 1.05


def test_a_device_holds_what_the_shardings_of_a_run_say(tiny):
    mesh = make_mesh(tiny.config.mesh)
    state = abstract_state(tiny.config, mesh)
    sizes = [x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(state)]
    assert tiny.state.device == sum(sizes)
    shapes = dict(jax.tree_util.tree_leaves_with_path(state.params))
    for path, x in shapes.items():
        (array,) = (a for a in tiny.arrays if a.name == jax.tree_util.keystr(path, simple=True, separator="."))
        split = [dim for dim, axis in enumerate(x.sharding.spec) if axis is not None]
        assert (array.shape, [] if array.split is None else [array.split]) == (x.shape, split)
    assert {array.split for array in tiny.arrays} >= {None, 0, 1}


def test_representations_on_a_device(af2):
    shapes = {part.name: (part.shape, part.device_shape) for part in af2.activations}
    assert shapes == {
        "MSA": ((128, 256, 256), (32, 256, 256)),
        "pair": ((256, 256, 128), (64, 256, 128)),
        "extra MSA": ((1024, 256, 64), (256, 256, 64)),
        "templates": ((4, 256, 256, 64), (4, 64, 256, 64)),
    }
    mib = {part.name: part.device_bytes / 2**20 for part in af2.activations}
    assert mib == {"MSA": 4, "pair": 4, "extra MSA": 8, "templates": 8}  # in bfloat16
    assert af2.borders / 2**20 == 48 * (4 + 4) + 4 * (8 + 4)
    assert af2.examples == 4


def test_representations_are_padded_and_counted_by_micro_batch():
    sizes = ("data.crop=30", "data.msa_clusters=9", "model.c_m=32", "model.c_z=16")
    summary = summary_of(*sizes, ONE, "mesh.context=4", "mesh.microbatch=2", "batch_size=4")
    example = pad({"msa": np.zeros((9, 30, 32)), "pair": np.zeros((30, 30, 16))}, 4)
    msa, pair = summary.activations
    assert (msa.shape, pair.shape) == ((9, 30, 32), (30, 30, 16))
    assert math.prod(msa.device_shape) * 4 == example["msa"].size
    assert math.prod(pair.device_shape) * 4 == example["pair"].size
    assert msa.device_bytes == 2 * 4 * math.prod(msa.device_shape)  # two examples, in float32
    assert summary.examples == 4


def test_the_stack_alone_is_a_network_too():
    assert next(module.name for module in summary_of("+experiment=notebook", ONE).modules) == "evoformer"


def test_where_devices_are_counted(monkeypatch):
    def sizes(*overrides: str) -> tuple[int, ...]:
        mesh = summary_of(*overrides, "model.blocks=1", "batch_size=16").config.mesh
        return mesh.data, mesh.fsdp, mesh.context

    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert sizes("mesh.fsdp=2") == (4, 2, 1)
    assert sizes("mesh=fsdp_context", "mesh.simulate=64") == (1, 16, 4)
    assert sizes("mesh=fsdp", "target.chips=4", "target.devices_per_chip=2") == (1, 8, 1)
    assert sizes("mesh.data=2", "mesh.context=2", "target.chips=32") == (2, 1, 2)
    with pytest.raises(
        ConfigError, match=r"mesh\.fsdp=3 mesh\.context=1 needs a multiple of 3 devices, but there are 8"
    ):
        sizes("mesh.fsdp=3")
    with pytest.raises(ConfigError, match="batch_size=16 cannot be split over"):
        sizes("mesh.data=3")
