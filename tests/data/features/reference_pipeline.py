"""DeepMind's feature pipeline with the random draws of one of our examples in the place of its own."""

from collections import deque
from types import SimpleNamespace

import jax
import numpy as np

from evotrain.data.features.example import example
from evotrain.data.formats.template_arrays import HHBLITS_LETTERS
from evotrain.data.protein import RESIDUES

# The reference's pipeline reads letters as HHblits numbers them.
TO_HHBLITS = np.array([HHBLITS_LETTERS.index(letter) for letter in f"{RESIDUES}X-"], np.int32)


class Recorder:
    """A generator that keeps what it has drawn, in order."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)
        self.drawn = deque()

    def __getattr__(self, name):
        def draw(*args, **kwargs):
            self.drawn.append(getattr(self._rng, name)(*args, **kwargs))
            return self.drawn[-1]

        return draw


def recorded_example(protein, shape, *, seed=0, training=True, max_rows=None):
    """Our features, and the draws that made them: the first residue, of every pass, and of the templates."""
    recorder = Recorder(seed)
    features = example(protein, recorder, shape, training=training, max_rows=max_rows)
    drawn = recorder.drawn
    assert not shape.spatial_crop  # the reference has none
    start = drawn.popleft()
    blocks = shape.block_deletions if training else 0
    passes = []
    for _ in range(shape.passes):
        starts = drawn.popleft() if blocks else None
        order, hidden, picks = (drawn.popleft() for _ in range(3))
        passes.append(SimpleNamespace(starts=starts, order=order, hidden=hidden, picks=picks))
    assert len(drawn) == (2 if training and shape.templates else 0)
    return features, SimpleNamespace(start=start, passes=passes, templates=tuple(drawn))


def reference_features(monkeypatch, raw, shape, draws, *, max_rows=None):
    """What AlphaFold's whole ensembled pipeline makes of a raw feature dictionary with these draws.

    What it uses in training only is put in front of what is repeated for every pass: block deletion, and the sample of
    at most `max_rows` rows that it takes of the alignments of predicted structures.
    """
    from alphafold.model.tf import data_transforms, input_pipeline, proteins_dataset

    count = len(raw.get("template_aatype", ())) if shape.templates else 0
    config = _config(shape, use_templates=count > 0, subsample_templates=bool(draws.templates))
    calls = _expected_calls(draws, shape, count, sampled=max_rows is not None)
    _answer(monkeypatch, calls)
    in_training = []
    if draws.passes[0].starts is not None:
        settings = SimpleNamespace(
            msa_fraction_per_block=shape.block_fraction, randomize_num_blocks=False, num_blocks=shape.block_deletions
        )
        in_training.append(data_transforms.block_delete_msa(settings))
    if max_rows is not None:
        in_training.append(data_transforms.sample_msa(max_rows, keep_extra=False))
    repeated = input_pipeline.ensembled_map_fns
    monkeypatch.setattr(input_pipeline, "ensembled_map_fns", lambda config: in_training + repeated(config))
    names = config.common.unsupervised_features + (config.common.template_features if count else [])
    with jax.numpy_rank_promotion("allow"):
        tensors = proteins_dataset.np_to_tensor_dict({name: raw[name] for name in names}, names)
        features = input_pipeline.process_tensors_from_config(tensors, config)
    assert not calls
    return features


def raw_features(protein):
    """The dictionary that AlphaFold's data pipeline would have written of a protein."""
    depth, length = protein.msa.shape
    raw = {
        "aatype": np.eye(21, dtype=np.float32)[protein.msa[0]],
        "residue_index": protein.residue_index.astype(np.int32),
        "sequence": np.array([b"unused"]),
        "domain_name": np.array([protein.name.encode()]),
        "seq_length": np.full(length, length, np.int32),
        "between_segment_residues": np.zeros(length, np.int32),
        "num_alignments": np.full(length, depth, np.int32),
        "msa": TO_HHBLITS[protein.msa],
        "deletion_matrix": protein.deletions.astype(np.float32),
    }
    if protein.templates:
        templates = protein.templates
        raw |= {
            "template_aatype": np.eye(22, dtype=np.float32)[TO_HHBLITS[templates.aatype]],
            "template_all_atom_positions": templates.atom_positions,
            "template_all_atom_masks": templates.atom_mask,
            "template_sum_probs": np.zeros((len(templates.aatype), 1), np.float32),
            "template_domain_names": np.array([b"unused"] * len(templates.aatype)),
        }
    return raw


def answer_draws(monkeypatch, *answers):
    """Lets the reference's functions draw these, each a pair of the drawing function's name and its answer."""
    calls = deque(answers)
    _answer(monkeypatch, calls)
    return calls


def picked(draws):
    """The answer of `tf.random.categorical`: classes picked by `draws`, any shape, from the cumulative distribution.

    The reference's odds come through a logarithm in float32, ours do not: they differ by 1e-7, which a draw meets once
    in about a million hidden residues.
    """

    def categorical(logits, samples, **_):
        cumulative = np.cumsum(np.exp(logits.astype(np.float64)), axis=-1)
        assert (samples, len(logits)) == (1, draws.size)
        return (cumulative[:, :-1] <= draws.reshape(-1, 1) * cumulative[:, -1:]).sum(-1, keepdims=True)

    return categorical


def given(value):
    """The answer of a function that draws an array of the value's shape."""

    def draw(shape=(), *_, **__):
        assert tuple(shape) == np.shape(value)
        return value

    return draw


def _config(shape, *, use_templates, subsample_templates):
    from alphafold.model.config import model_config

    config = model_config("model_1").data
    config.common.update(
        {
            "max_extra_msa": shape.extra_msa,
            "num_recycle": shape.passes - 1,
            "reduce_msa_clusters_by_max_templates": False,
            "use_templates": use_templates,
        }
    )
    config.eval.update(
        {
            "max_msa_clusters": shape.msa_clusters,
            "max_templates": shape.templates,
            "masked_msa_replace_fraction": shape.mask_fraction,
            "subsample_templates": subsample_templates,
        }
    )
    with config.unlocked():
        config.eval.crop_size = shape.crop
    return config


def _expected_calls(draws, shape, count, *, sampled):
    """What the reference draws, in its order: it makes the first pass twice if there are several."""
    zero = np.zeros(1)  # two draws that the reference makes and does not use
    calls = [("uniform", given(zero)), ("uniform", given(zero)), ("uniform", given(np.zeros(2, np.int32)))]
    for one in (draws.passes[:1] if shape.passes > 1 else []) + draws.passes:
        if one.starts is not None:
            calls.append(("uniform", given(one.starts)))
        calls.append(("random_shuffle", lambda rows, order=one.order: rows[order]))
        if sampled:
            calls.append(("random_shuffle", lambda rows: rows))  # a sample of ours is in random order already
        calls += [
            ("uniform", given(one.hidden)),
            ("categorical", picked(one.picks)),
        ]
        if shape.extra_msa:
            calls.append(("random_shuffle", lambda rows: rows))  # our extra rows are in random order already
        calls += _crop_calls(draws, count)
    return deque(calls)


def _crop_calls(draws, count):
    """The reference permutes all templates and then shows those from a random one on; we draw how many are shown."""
    residues = ("stateless_uniform", given(draws.start))
    if not draws.templates:
        return [residues, ("stateless_uniform", given(np.arange(count)))]
    shown, order = draws.templates
    first = count - shown
    keys = np.argsort(np.roll(order, first))
    return [("stateless_uniform", given(first)), residues, ("stateless_uniform", given(keys))]


def _answer(monkeypatch, calls):
    from alphafold.model.tf import np_backend

    def answering(name):
        def draw(*args, **kwargs):
            expected, answer = calls.popleft()
            assert name == expected
            return answer(*args, **kwargs)

        return draw

    monkeypatch.setattr(np_backend, "random_shuffle", answering("random_shuffle"))
    for name in ("uniform", "stateless_uniform", "categorical"):
        monkeypatch.setattr(np_backend.random, name, answering(name))
