"""A run goes on with its own data: wherever they are, raw or prepared, and with others only if that is asked for."""

import shutil
from pathlib import Path

import pytest
from tiny_run import TINY, rows

from evotrain.checks import check
from evotrain.cli import main
from evotrain.compose import compose, to_yaml
from evotrain.errors import RunError
from evotrain.resume import check_same_data, check_same_run
from evotrain.run_dir import RunDir

ROOT = ["data=msa_dir", "data.root=/a"]
MIXTURE = ["data=mixture", "data.sets.a.root=/a", "data.sets.a.weight=1", "data.sets.b.root=/b", "data.sets.b.weight=3"]


@pytest.mark.parametrize(
    ("before", "now", "remedy"),
    [
        (ROOT, ["data=msa_dir", "data.root=/b"], "[data.root]"),
        (ROOT, [*ROOT, "data.crop=32", "seed=3"], "[seed,data.crop]"),
        (ROOT, [*ROOT, "data.eval_fraction=0.3", "data.crop=32", "seed=3"], "[seed,data]"),
        (ROOT, [*ROOT, "data.crop=32", "resume_allow=[seed,data.crop]", "batch_size=4"], "[seed,data.crop,batch_size]"),
        (ROOT, MIXTURE, "[data]"),
        (MIXTURE, [*MIXTURE, "data.sets.a.root=/c"], "[data.sets.a.root]"),
        (MIXTURE, [*MIXTURE, "data.sets.a.weight=2"], "[data]"),
        (MIXTURE, MIXTURE[:3], "[data]"),
    ],
)
def test_the_remedy_can_be_followed(tmp_path, before, now, remedy):
    run_dir = RunDir(tmp_path)
    run_dir.config.write_text(to_yaml(compose(before)))
    run_dir.metrics.write_text("{}\n")
    with pytest.raises(RunError) as caught:
        check_same_run(compose(now), run_dir)
    assert str(caught.value).endswith(f"continue it all the same with resume_allow={remedy}.")
    allowed = compose([*(each for each in now if "resume_allow" not in each), f"resume_allow={remedy}"])
    check(allowed, None)
    check_same_run(allowed, run_dir)


def test_only_the_word_data_allows_other_data():
    saved = {"examples": 8, "data": {"data.sets.a.": "1", "data.sets.b.": "2"}}
    config = compose([*MIXTURE, "resume_allow=[data.sets.a.root,seed]", "run_dir=run"])
    check_same_data(saved, dict(saved["data"]), config)
    with pytest.raises(RunError) as caught:
        check_same_data(saved, {"data.sets.a.": "1", "data.sets.b.": "3", "data.sets.c.": "4"}, config)
    assert str(caught.value) == (
        "the data of run have changed since it was saved (data.sets.b.root, data.sets.c.root: other proteins, another "
        "split or other weights): restore them, choose another name=…, or continue it on the other data with "
        "resume_allow=[seed,data]."
    )
    check_same_data(saved, {}, compose([*MIXTURE, "resume_allow=[data]"]))


def test_a_checkpoint_of_a_version_that_did_not_look_at_the_data():
    check_same_data({"examples": 8}, {"data.": "1"}, compose(ROOT))


@pytest.mark.slow
def test_a_set_may_move_and_be_prepared(one_device, repository, tmp_path, capfd):
    sample = repository / "data" / "sample"
    for name in "ab":
        shutil.copytree(sample, tmp_path / name)

    def run(a: Path, b: Path, *overrides: str) -> tuple[int, str]:
        sets = [f"data.sets.a.root={a}", "data.sets.a.weight=1", f"data.sets.b.root={b}", "data.sets.b.weight=1"]
        code = main([*TINY, "data=mixture", *sets, f"run_dir={tmp_path / 'run'}", *overrides])
        return code, capfd.readouterr().err

    a, moved = tmp_path / "a", tmp_path / "moved"
    b, prepared = tmp_path / "b", sample.with_name("sample_prepared")
    assert run(a, b, "steps=1") == (0, "")
    a.rename(moved)
    code, sentence = run(moved, prepared, "steps=2")
    assert (code, sentence.rpartition(" ")[2]) == (1, "resume_allow=[data.sets.a.root,data.sets.b.root].\n")
    roots = "resume_allow=[data.sets.a.root,data.sets.b.root]"
    assert run(moved, prepared, "steps=2", roots) == (0, "")
    assert rows(tmp_path / "run")[-1]["step"] == 2

    shutil.rmtree(moved / "sample0")
    code, sentence = run(moved, prepared, "steps=3", roots)
    assert code == 1
    assert f"the data of {tmp_path / 'run'} have changed since it was saved (data.sets.a.root: other pro" in sentence
    assert sentence.endswith("resume_allow=[data].\n")
