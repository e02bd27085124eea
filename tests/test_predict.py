"""`command=predict` from its configuration to its files, with a small network and with what replaces one."""

import json
from dataclasses import replace
from pathlib import Path

import gemmi
import jax
import numpy as np
import pytest
from quick_compile import QUICK

from evotrain import predict
from evotrain.compose import compose
from evotrain.config import Config, PredictConfig
from evotrain.errors import ConfigError, DataError
from evotrain.model.network import network
from evotrain.predict import output_directory, predict_run, prediction_mesh
from evotrain.step import predict_step
from evotrain.weights import save_alphafold

SMALL = [
    "model=tiny_fold", "model.blocks=1", "model.c_m=16", "model.c_z=16", "model.msa_heads=2", "model.pair_heads=2",
    "model.c_outer=4", "model.c_triangle=16", "model.extra_msa.c_m=8", "model.extra_msa.heads=2",
    "model.structure.layers=2", "model.structure.c_s=16", "model.structure.c_sidechain=16",
    "model.structure.c_confidence=16", "model.structure.aligned_error=true", "data=msa_dir", "data.root=unused",
    "data.crop=32", "data.msa_clusters=8", "data.extra_msa=8",
]  # fmt: skip
FILES = {"structure.cif", "structure.pdb", "confidence.json", "contacts.png", "pae.png", "plddt.png"}
SEQUENCES = {"one": "MKVLAGESTWYV", "two": "GGRNDCQEGHILKMF"}


@pytest.fixture
def queries(tmp_path) -> Path:
    """A directory with an alignment of one protein and the sequence of another."""
    directory = tmp_path / "queries"
    directory.mkdir()
    one, two = SEQUENCES.values()
    rows = [one, one[:-1] + "-", one.replace("A", "aaG")]
    (directory / "one.a3m").write_text("".join(f">{number}\n{row}\n" for number, row in enumerate(rows)))
    (directory / "both.fasta").write_text(f">two of them\n{two}\n")
    return directory


def predict_config(tmp_path: Path, queries: Path | None, *overrides: str, **changed) -> Config:
    wanted = {"input": str(queries), "weights": str(tmp_path / "w.npz"), "out": str(tmp_path / "out"), **changed}
    config = compose([*SMALL, *overrides])
    return replace(config, command="predict", predict=PredictConfig(**wanted))


def make_weights(config: Config) -> None:
    """Random parameters, none of them zero as they would be at the start of a training."""
    rng = np.random.default_rng(0)
    _, shapes = network(config)
    save_alphafold(jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape), shapes), config.predict.weights)


@pytest.fixture
def without_network(monkeypatch):
    """Every pass predicts a line of Cα 3.8 Å apart. Returns the queries' sizes that it was given."""
    seen = []

    def step(_params, features, recycled):
        n = features["aatype"].shape[0]
        seen.append((n, int(features["seq_mask"].sum())))
        positions = np.zeros((n, 37, 3), np.float32)
        positions[:, :, 0] = 3.8 * np.arange(n)[:, None]
        mask = np.zeros((n, 37), np.float32)
        mask[:, :5] = 1
        outputs = {"atom_positions": positions, "atom_mask": mask, "plddt": np.full(n, 80.0, np.float32)}
        return outputs | {"contact_probability": np.zeros((n, n), np.float32)}, recycled

    monkeypatch.setattr(predict, "predict_step", lambda *_: step)
    monkeypatch.setattr(predict, "_parameters", lambda *_: (None, "nothing"))
    return seen


def test_from_published_parameters_to_files(tmp_path, queries, monkeypatch, capsys):
    programs = []

    def quick(*arguments):
        programs.append(jax.jit(predict_step(*arguments), compiler_options=QUICK))
        return programs[-1]

    monkeypatch.setattr(predict, "predict_step", quick)
    config = predict_config(tmp_path, queries, recycles=2, tolerance=0.0)
    make_weights(config)
    predict_run(config)
    assert programs[0]._cache_size() == 1, "proteins of one bucket share a program, and so do their passes"
    for name, sequence in SEQUENCES.items():
        directory = tmp_path / "out" / name
        assert {file.name for file in directory.iterdir()} == FILES
        found = json.loads((directory / "confidence.json").read_text())
        assert found["sequence"] == sequence
        assert found["passes"] == 3
        assert min(found["changes"]) > 0
        assert not found["converged"]
        assert 0 < found["ptm"] < 1
        assert np.shape(found["pae"]) == (len(sequence), len(sequence))
        for file in ("structure.cif", "structure.pdb"):
            (chain,) = gemmi.read_structure(str(directory / file))[0]
            assert chain.get_polymer().make_one_letter_sequence() == sequence
            plddt = [residue["CA"][0].b_iso for residue in chain]
            np.testing.assert_allclose(plddt, found["plddt"], atol=1e-4)
    said = capsys.readouterr().out
    assert f"Folds 2 proteins of {queries} with {config.predict.weights}." in said
    assert "one: 12 residues, 3 sequences  pLDDT" in said
    assert f"Structures, confidences and figures are in {tmp_path}/out." in said


def test_a_broken_protein_does_not_stop_the_others(tmp_path, queries, without_network, capsys):
    (queries / "broken.a3m").write_text(">x\nAR?D\n")
    config = predict_config(tmp_path, queries, recycles=0)
    with pytest.raises(DataError) as error:
        predict_run(config)
    reason = f"broken: {queries}/broken.a3m, line 2: '?' is neither a residue nor a gap."
    assert str(error.value) == f"1 of 3 proteins could not be folded; {reason}"
    assert f"warning: {reason}" in capsys.readouterr().out
    assert {directory.name for directory in (tmp_path / "out").iterdir()} == {"one", "two"}
    assert without_network == [(32, 12), (32, 15)]


def test_a_network_without_aligned_errors_has_no_figure_of_them(tmp_path, queries, without_network, capsys):
    predict_run(predict_config(tmp_path, queries / "one.a3m"))
    directory = tmp_path / "out" / "one"
    assert {file.name for file in directory.iterdir()} == FILES - {"pae.png"}
    found = json.loads((directory / "confidence.json").read_text())
    assert (found["pae"], found["ptm"]) == (None, None)
    assert found["converged"]
    assert f"Structures, confidences and figures are in {directory}." in capsys.readouterr().out


def test_where_predictions_are_written(tmp_path):
    config = predict_config(tmp_path, tmp_path)
    assert output_directory(config) == tmp_path / "out"
    unnamed = replace(config, predict=replace(config.predict, out=None))
    assert output_directory(unnamed) == Path("predictions")
    of_a_run = replace(unnamed, run_dir="runs/x", predict=replace(unnamed.predict, weights=None))
    assert output_directory(of_a_run) == Path("runs/x/predict")


def test_the_context_axis_alone_shares_a_protein(tmp_path):
    config = predict_config(tmp_path, tmp_path, "mesh.data=2", "mesh.fsdp=2", "mesh.context=4", "data.crop=30")
    assert dict(prediction_mesh(config).shape) == {"data": 1, "fsdp": 1, "context": 4}
    rest = replace(config, mesh=replace(config.mesh, data=1, fsdp=1, context=-1))
    assert prediction_mesh(rest).shape["context"] == jax.device_count() == 16


@pytest.mark.parametrize(
    ("overrides", "changed", "message"),
    [
        ([], {"input": None}, "command=predict needs proteins: write predict.input=query.a3m"),
        ([], {"input": "no/such.a3m"}, "no/such.a3m: no such file or directory"),
        (["mesh.context=17"], {}, "mesh.context=17 needs 17 devices, but there are 16: write mesh.context=16"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(tmp_path, queries, without_network, overrides, changed, message):
    with pytest.raises((ConfigError, DataError)) as error:
        predict_run(predict_config(tmp_path, queries, *overrides, **changed))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_structure_is_refused(tmp_path, queries):
    config = compose(["data=msa_dir", "data.root=unused"])
    config = replace(config, command="predict", predict=PredictConfig(input=str(queries)))
    with pytest.raises(ConfigError, match="this one has model.structure.layers=0: name another run_dir=…"):
        predict_run(config)


def test_the_parameters_of_a_run_are_those_of_its_checkpoint(tmp_path, queries, monkeypatch):
    asked = []

    def load(run_dir, which, abstract):
        asked.append((run_dir, which))
        return abstract, 7

    monkeypatch.setattr(predict, "load_params", load)
    config = predict_config(tmp_path, queries, "mesh.data=1", weights=None, checkpoint="last")
    config = replace(config, run_dir="runs/x")
    _, origin = predict._parameters(config, prediction_mesh(replace(config, mesh=replace(config.mesh, context=1))))
    assert asked == [("runs/x", "last")]
    assert origin == "step 7 of runs/x"
