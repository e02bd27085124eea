"""The whole network, from a fresh start, learns one small real protein by heart, and writes it down."""

import json

import gemmi
import pytest

from evotrain.cli import main


@pytest.mark.nightly
def test_one_protein_is_learned_by_heart(realdata, one_device, tmp_path):
    run_dir = tmp_path / "overfit"
    data = [f"data.root={realdata}", "data.only=1orc_A"]
    assert main(["+experiment=overfit_one", *data, f"run_dir={run_dir}", "logger=files", "mesh.data=1"]) == 0
    metrics = json.loads((run_dir / "summary.json").read_text())["metrics"]
    print({name: value for name, value in metrics.items() if "structure" in name})
    assert metrics["eval/held_out/structure/lddt_ca"] > 0.8

    msa = realdata / "1orc_A" / "msa.a3m.gz"
    assert main(["command=predict", f"run_dir={run_dir}", f"predict.input={msa}", f"predict.out={tmp_path}"]) == 0
    confidence = json.loads((tmp_path / "1orc_A" / "confidence.json").read_text())
    (chain,) = gemmi.read_structure(str(tmp_path / "1orc_A" / "structure.cif"))[0]
    assert gemmi.one_letter_code([residue.name for residue in chain]) == confidence["sequence"]
