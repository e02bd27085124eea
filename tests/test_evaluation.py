"""The mean over held-out examples, whatever the batches that they come in; the model is replaced by sums."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest

from evotrain.compose import compose
from evotrain.data.sources import open_source
from evotrain.errors import DataError
from evotrain.evaluation import Evaluation
from evotrain.parallel.mesh import make_mesh

EXAMPLES = 6
OVERRIDES = ["data.crop=32", "data.msa_clusters=16", f"data.eval_examples={EXAMPLES}", "mesh.data=1"]


def evaluation(batch_size: int, change=lambda source: source, *overrides: str) -> Evaluation:
    config = compose([*OVERRIDES, f"batch_size={batch_size}", *overrides])

    def step(weight, batch):
        """A loss of each example, and maps in which the true contacts rank first if `weight` is positive."""
        distance = jnp.linalg.norm(batch["pseudo_beta"][:, None] - batch["pseudo_beta"][:, :, None], axis=-1)
        metrics = {"loss/masked_msa": weight * batch["bert_mask"].mean((1, 2, 3))}
        return metrics, {"contact_probability": -weight * distance, "expected_distance": distance}, {}

    return Evaluation(change(open_source(config)), config, make_mesh(config.mesh), step, EXAMPLES)


def test_metrics_are_means_over_the_examples_in_batches_of_any_size():
    source = open_source(compose(OVERRIDES))
    mean = np.mean([source.evaluate(i).example["bert_mask"].mean() for i in range(EXAMPLES)])
    reports = {size: evaluation(size).run(1.0) for size in (1, 4, 6, 8)}
    assert reports[1].metrics["loss/masked_msa"] == pytest.approx(mean, rel=1e-6)
    assert reports[1].metrics["masked_msa/perplexity"] == pytest.approx(np.exp(mean), rel=1e-6)
    for report in reports.values():
        assert report.metrics == pytest.approx(reports[1].metrics, rel=1e-6)
        assert report.pictured.name == reports[1].pictured.name


def test_predictions_have_no_padding_where_devices_share_an_example():
    """The true contacts rank first: a map of another size would rank pairs of other residues."""
    alone, shared = (evaluation(4, lambda source: source, f"mesh.context={context}").run(1.0) for context in (1, 5))
    assert shared.metrics.keys() == alone.metrics.keys()
    for name in alone.metrics.keys() - {"loss/masked_msa", "masked_msa/perplexity"}:  # here a mean with the padding
        assert shared.metrics[name] == pytest.approx(alone.metrics[name], rel=1e-6), name
    np.testing.assert_array_equal(shared.pictured.distance, alone.pictured.distance)


def test_contacts_beside_baseline_and_chance():
    metrics = evaluation(4).run(1.0).metrics
    assert metrics["contact/precision_at_L5"] == metrics["permuted/precision_at_L5"]  # this model reads no alignment
    assert 0 < metrics["contact/chance"] < metrics["contact/precision_at_L"] < metrics["contact/precision_at_L5"]
    assert evaluation(4).run(-1.0).metrics["contact/precision_at_L5"] == 0


def test_the_baseline_is_computed_once(monkeypatch):
    judge = evaluation(4)
    first = judge.run(1.0)
    calls = []
    monkeypatch.setattr(
        "evotrain.evaluation.contact_scores", lambda msa: calls.append(1) or np.zeros((msa.shape[1],) * 2)
    )
    second = judge.run(1.0)
    assert second.metrics == first.metrics
    assert len(calls) == 1  # for the picture
    assert second.pictured.name == first.pictured.name


def test_an_example_that_hangs_ends_the_evaluation_with_its_name():
    def changed(source):
        evaluate = source.evaluate
        source.evaluate = lambda index: threading.Event().wait() if index == 4 else evaluate(index)
        return source

    with pytest.raises(DataError, match=r"^held-out example 4 \(family-0-2-4\) is not ready after 0\.05 minutes: "):
        evaluation(4, changed, "data.timeout=0.05").run(1.0)


def test_examples_that_could_not_be_read_are_counted_and_named():
    def changed(source):
        evaluate = source.evaluate

        def annotated(index: int):
            held_out = evaluate(index)
            note = np.asarray("p3: torn" if index == 3 else "")
            return held_out._replace(example=held_out.example | {"note": note})

        source.evaluate = annotated
        return source

    report = evaluation(4, changed).run(1.0)
    assert report.notes == ["p3: torn"]
    assert report.metrics["data/substituted"] == 1
