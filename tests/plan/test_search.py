"""Which layouts are looked at, and which is chosen."""

from dataclasses import replace

import pytest

from evotrain.compose import compose
from evotrain.config import MeshConfig
from evotrain.plan import search
from evotrain.plan.footprint import memory_of
from evotrain.plan.result import GIB, Candidate, Layout

FINETUNE = ["+experiment=af2_finetune", "data.root=unread", "batch_size=16"]


def test_every_layout_uses_all_devices_and_splits_the_batch():
    found = list(search.layouts(16, 64))
    assert all(one.data * one.fsdp * one.context == 64 and 16 % (one.data * one.fsdp) == 0 for one in found)
    meshes = {(one.data, one.fsdp, one.context) for one in found}
    assert (16, 1, 4) in meshes
    assert (1, 1, 64) in meshes
    assert (64, 1, 1) not in meshes
    assert len(set(found)) == len(found)
    assert not [one for one in search.layouts(16, 16) if one.context == 1 and one.remat == "gathered"]
    assert {one.microbatch for one in search.layouts(16, 4) if one.data == 4} == {1, 2, 4}
    assert {one.microbatch for one in found} == {1}, "examples that are shared are computed one at a time"


def test_the_chosen_layout_is_as_fast_as_any_that_fits():
    config = compose([*FINETUNE, "target=v5e_16"])
    found = search.candidates(config, 16)
    fitting = [one for one in found if one.fits]
    assert all(one.memory <= search.SAFE * config.target.memory_gib * GIB for one in fitting)
    assert fitting == sorted(found[: len(fitting)], key=lambda one: one.step)
    best = search.best_layout(found)
    assert best in fitting
    assert best.step <= (1 + search.NEAR) * fitting[0].step
    rest = [one.memory for one in found if not one.fits]
    assert rest == sorted(rest)
    assert rest, "16 GiB hold no step that keeps everything"


def test_of_layouts_as_fast_the_one_with_small_micro_batches_and_little_to_send_is_chosen():
    def candidate(microbatch: int, step: float, network: float, *, fits: bool = True) -> Candidate:
        layout = Layout(data=1, fsdp=1, context=1, remat="none", microbatch=microbatch)
        return Candidate(layout=layout, memory=1.0, step=step, network=network, fits=fits)

    wanted = candidate(1, 1.01, 0.5)
    found = [candidate(1, 0.5, 0.1, fits=False), candidate(4, 1.0, 0.1), candidate(1, 1.0, 0.6), wanted]
    assert search.best_layout([*found, candidate(1, 1.2, 0.1)]) == wanted


def test_larger_micro_batches_are_chosen_where_weights_are_the_work():
    """A small crop on many devices: each pass gathers and reads all weights."""
    config = compose([*FINETUNE, "target=h100_8", "data.crop=32", "data.msa_clusters=8", "optimizer.clip=global"])
    config = replace(config, data=replace(config.data, extra_msa=8), target=replace(config.target, memory_gib=8.0))
    best = search.best_layout(search.candidates(config, 8))
    assert best.layout.microbatch > 1


def test_nothing_fits_where_nothing_can():
    config = compose([*FINETUNE, "target=v5e_16", "target.memory_gib=0.5"])
    assert search.best_layout(search.candidates(config, 16)) is None


@pytest.mark.parametrize("context", [1, 8])
def test_auto_computes_again_as_little_as_fits(context: int):
    config = compose([*FINETUNE, "batch_size=1"])
    config = replace(config, mesh=MeshConfig(data=1, fsdp=1, context=context))

    def memory(remat: str) -> float:
        return memory_of(search.place(config, Layout(data=1, fsdp=1, context=context, remat=remat, microbatch=1))).total

    policies = [remat for remat in search.REMATS if remat != "gathered" or context > 1]
    needed = [memory(remat) for remat in policies]
    assert needed == sorted(needed, reverse=True)
    for remat, size in zip(policies, needed, strict=True):
        assert search.least_remat(config, 1.01 * size / search.SAFE) == remat
    assert search.least_remat(config, 1.0) == "block"


def test_a_trunk_without_other_stacks_needs_less():
    overrides = [*FINETUNE, "batch_size=1", "mesh.data=1", "mesh.remat=block"]
    without = ["model.extra_msa.blocks=0", "data.extra_msa=0", "model.template.blocks=0", "data.templates=0"]
    whole, trunk = (memory_of(compose([*overrides, *others])).total for others in ([], without))
    assert 0 < trunk < whole
