import pytest
from made_proteins import add_index

from evotrain.data.sets.index import cluster_of, read_index, split_ids
from evotrain.errors import DataError


def _split(ids, index=None, eval_fraction=0.5, **keys):
    return split_ids("root", list(ids), index or {}, eval_fraction, **keys)


def _column(name, values):
    return {key: {"chain": "", "split": "", "cluster": ""} | {name: value} for key, value in values.items()}


def test_reads_the_columns_that_are_used(tmp_path):
    assert read_index(tmp_path / "index.csv") == {}
    add_index(tmp_path, "\ufeffid,note,split,chain", " a ,x, val ,B", "b,y")
    assert read_index(tmp_path / "index.csv") == {
        "a": {"chain": "B", "split": "val", "cluster": ""},
        "b": {"chain": "", "split": "", "cluster": ""},
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("name,split\na,train\n", "index.csv: has no column id; its first line must name the columns."),
        ("", "index.csv: has no column id"),
        ("id,split\na,train\nb,val\na,val\n", "index.csv, line 4: the id 'a' is there twice; keep one row."),
        ("id\n\xff\n", "index.csv: cannot be read as a comma-separated table"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, content, sentence):
    (tmp_path / "index.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read_index(tmp_path / "index.csv")
    assert sentence in str(caught.value)


def test_the_split_column_decides_where_it_names_one():
    index = _column("split", {"a": "train", "b": "val", "c": "Test", "d": "train", "not_here": "train"})
    assert _split("abcd", index) == (["a", "d"], ["b", "c"], "split")


@pytest.mark.parametrize("word", ["vla", ""])
def test_a_split_that_is_none(tmp_path, word):
    index = _column("split", {"a": "train", "b": word})
    with pytest.raises(DataError) as caught:
        split_ids(tmp_path, ["a", "b"], index, 0.5)
    assert str(caught.value) == (
        f"{tmp_path / 'index.csv'}: the split of 'b' is {word!r}; write train or val for every protein."
    )


def test_whole_clusters_are_held_out_where_the_split_column_splits_nothing():
    clusters = {f"p{i:02}": f"c{i // 4}" for i in range(40)}
    index = {name: {"chain": "", "split": "public", "cluster": cluster} for name, cluster in clusters.items()}
    train, held_out, rule = _split(clusters, index)
    assert rule == "cluster"
    assert sorted(train + held_out) == list(clusters)
    assert not {clusters[name] for name in train} & {clusters[name] for name in held_out}
    assert cluster_of("p01", index) == "c0"
    assert cluster_of("p01", {}) == "p01"


def test_the_hash_holds_out_the_same_proteins_in_every_process():
    assert _split("abcdefgh") == (list("abcdeh"), list("fg"), "id")
    assert set(_split("abcdefgh", eval_fraction=0.3)[1]) <= set(_split("abcdefgh", eval_fraction=0.6)[1])
    assert _split("abcdefgh", eval_fraction=0.0) == (list("abcdefgh"), [], "id")
    names = [f"protein{i}" for i in range(20_000)]
    assert len(_split(names, eval_fraction=0.1)[1]) == pytest.approx(2000, rel=0.05)


def test_one_protein_alone():
    assert _split("abc", only="b") == (["b"], ["b"], "data.only, the same one")
    with pytest.raises(DataError, match=r"^data.only=x is not a protein of root.* The first of 3 is a\.$"):
        _split("abc", only="x")
