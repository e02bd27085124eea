"""Jobs of `command=prepare` in this process, two proteins a file if not said otherwise."""

from evotrain.config import Config, PrepareConfig
from evotrain.data_config import MsaDirConfig
from evotrain.prepare.command import prepare

NAMES = [f"p{number}" for number in range(7)]


def prepare_set(root, out, *, shard="0/1", workers=1, proteins_per_file=2, **data):
    """One job; `data` are keys of the data set."""
    options = {"out": str(out), "shard": shard, "workers": workers, "proteins_per_file": proteins_per_file}
    data = MsaDirConfig(root=str(root), crop=8, msa_clusters=4, **data)
    prepare(Config(command="prepare", data=data, prepare=PrepareConfig(**options)))


def content(out):
    """The bytes of every file, the figure's too (its title names the directory, which must be `out`)."""
    return {file.name: file.read_bytes() for file in out.iterdir()}
