"""One short run, and the same run interrupted: what must work on every Python that is supported."""

from tiny_run import TINY, rows, summary

from evotrain.cli import main


def test_a_run_and_the_same_run_in_two_parts(one_device, tmp_path, capfd):
    def run(name: str, steps: int) -> None:
        assert main([*TINY, f"run_dir={tmp_path / name}", "eval_every=1", f"steps={steps}"]) == 0, capfd.readouterr()

    run("whole", 2)
    run("parts", 1)
    run("parts", 2)
    assert "continues from step 1" in capfd.readouterr().out
    assert [(row["step"], row["split"]) for row in rows(tmp_path / "whole")] == [
        (0, "eval/held_out"), (1, "train"), (1, "eval/held_out"), (2, "train"), (2, "eval/held_out"),
    ]  # fmt: skip
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert summary(tmp_path / "parts")["status"] == "finished"
