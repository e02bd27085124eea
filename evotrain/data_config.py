"""The typed configuration of the data: one class for each kind, chosen by `data=…`."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from evotrain.keys import key

# What command=prepare takes of a set beside its root: it decides the content of the files, and nothing afterwards.
PREPARED_KEYS = ("structures", "template_structures", "templates_before")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    source: str = key(
        MISSING, "the kind of data; set by the choice of data=…", ("coevolution", "synthetic", "msa_dir", "mixture")
    )
    crop: int = key(MISSING, "residues of an example; longer proteins are cropped, shorter ones padded")
    msa_clusters: int = key(MISSING, "MSA rows of an example, templates not counted")
    extra_msa: int = key(0, "rows of the extra MSA; for a model that has an extra MSA stack")
    templates: int = key(0, "templates of an example, at most; for a model that embeds them")
    eval_examples: int = key(32, "held-out examples that an evaluation reads, at most")
    workers: int = key(0, "processes that prepare examples; 0: threads of the main process")
    prefetch: int = key(16, "batches prepared ahead: a step waits for an example that takes longer than so many steps")
    timeout: float = key(10.0, "minutes after which an example that is still not ready ends the run, with its name")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(DataConfig):
    source: str = key("synthetic", "the kind of data; set by the choice of data=…", ("synthetic",))


@dataclass(frozen=True, kw_only=True)
class MaskedConfig(DataConfig):
    """Examples with alignments, of which a part is hidden."""

    mask_fraction: float = key(0.15, "MSA positions that are hidden for the masked-MSA loss")


@dataclass(frozen=True, kw_only=True)
class CoevolutionConfig(MaskedConfig):
    source: str = key("coevolution", "the kind of data; set by the choice of data=…", ("coevolution",))
    length: int | None = key(None, "residues of a family; null: as many as the crop")
    depth: int | None = key(None, "sequences of a family; null: as many as the MSA clusters")
    coupling: float = key(1.4, "strength of the Potts couplings of touching residues; 0: columns are independent")
    family_noise: float = key(0.1, "per-family deviation from the shared coupling table, relative to it")
    branch_sweeps: float = key(
        2.0, "Gibbs sweeps along the mean branch of the phylogeny; fewer: closer relatives, which hide what co-evolves"
    )


@dataclass(frozen=True, kw_only=True)
class ProteinSetConfig:
    """Where a set of proteins is, and which of them are trained on how often."""

    root: str = key(MISSING, "directory of alignments and structures, or what command=prepare has written")
    structures: str | None = key(
        None, "directory of <id> or <PDB entry>.cif[.gz] or .pdb[.gz]; null: structures stand with the alignments"
    )
    template_structures: str | None = key(
        None, "directory of <PDB entry>.cif[.gz] in which template hits are looked up; null: hits are not read"
    )
    templates_before: str | None = key(
        None,
        "look up only hits released before this date, YYYY-MM-DD, and in any case before the protein's own structure; "
        "null: only that; templates in .npz files are shown as they are",
    )
    eval_fraction: float = key(0.1, "proteins held out where index.csv names no split")
    released_before: str | None = key(None, "train on structures released before this date, YYYY-MM-DD; null: all")
    max_resolution: float | None = key(None, "train on structures of at most so many Å; null: all")
    max_repeat: float | None = key(None, "train on proteins of which at most this share is one residue type; null: all")
    weigh_length: bool = key(False, "accept a protein of L residues with probability min(max(L, 256), 512) / 512")
    weigh_cluster: bool = key(False, "accept a protein with probability 1 / members of its cluster")
    min_plddt: float | None = key(
        None, "of predicted structures: hide residues whose pLDDT (B-factor of Cα) is lower from the losses; null: none"
    )
    max_rows: int | None = key(None, "show at most so many random rows of an alignment; null: all")


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(MaskedConfig):
    """How alignments from files become examples."""

    block_deletions: int = key(5, "blocks of neighbouring rows that are deleted from an alignment; 0: none")
    block_fraction: float = key(0.3, "rows of one such block, relative to the alignment")
    spatial_crop: float = key(0.0, "share of the crops that are a neighbourhood in space; the others are contiguous")


@dataclass(frozen=True, kw_only=True)
class MsaDirConfig(AlignmentConfig, ProteinSetConfig):
    source: str = key("msa_dir", "the kind of data; set by the choice of data=…", ("msa_dir",))
    only: str | None = key(None, "train on this one protein of root, and evaluate on it too; null: on all of them")


@dataclass(frozen=True, kw_only=True)
class MixedSetConfig(ProteinSetConfig):
    weight: float = key(MISSING, "share of the examples that come from this set, relative to the other sets' weights")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig(AlignmentConfig):
    source: str = key("mixture", "the kind of data; set by the choice of data=…", ("mixture",))
    # OmegaConf makes the values of a typed dictionary of frozen classes read-only; compose.to_config types them.
    sets: dict[str, Any] = key({}, "the sets by name, each with a weight and the keys of a data=msa_dir")


DATA_CONFIGS: dict[str, type[DataConfig]] = {
    "synthetic": SyntheticConfig,
    "coevolution": CoevolutionConfig,
    "msa_dir": MsaDirConfig,
    "mixture": MixtureConfig,
}
