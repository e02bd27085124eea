"""The typed configuration: every key with its type, default and one-line meaning.

`conf/` holds the named choices of each group; this file holds what a choice may say. `evotrain.checks` holds the rules
that span several keys. No jax here: a mistake is answered before the accelerator is touched.
"""

from dataclasses import dataclass

from omegaconf import MISSING

from evotrain.data_config import DataConfig
from evotrain.keys import group, key


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    masked_msa: float = key(2.0, "weight of the masked-MSA loss")
    distogram: float = key(0.3, "weight of the distogram loss")
    fape_backbone: float = key(0.5, "weight of the frame-aligned point error of backbone frames, mean over layers")
    fape_sidechain: float = key(0.5, "weight of the frame-aligned point error of all atoms")
    chi: float = key(0.5, "weight of the side-chain torsion angle loss")
    angle_norm: float = key(0.01, "weight of the deviation of predicted (sin, cos) vectors from unit length")
    plddt: float = key(0.01, "weight of the predicted-lDDT loss")
    resolved: float = key(0.0, "weight of the experimentally-resolved loss")
    violation: float = key(0.0, "weight of the bond, angle and clash losses")
    aligned_error: float = key(0.0, "weight of the predicted-aligned-error loss")
    clamp_probability: float = key(0.9, "share of the steps whose backbone errors are clamped at 10 Å")
    scale_by_length: bool = key(True, "multiply an example's loss by the square root of its residues in the crop")


@dataclass(frozen=True, kw_only=True)
class ExtraMSAConfig:
    blocks: int = key(0, "blocks of the extra MSA stack; 0: no extra MSA")
    c_m: int = key(64, "channels of the extra MSA representation")
    heads: int = key(8, "heads of its row and column attention")


@dataclass(frozen=True, kw_only=True)
class TemplateConfig:
    blocks: int = key(0, "blocks of the template pair stack; 0: no templates")
    c_t: int = key(64, "channels of a template's pair representation")
    heads: int = key(4, "heads of its triangle attention, and of the attention of residue pairs to templates")
    transition_factor: int = key(2, "hidden channels of its transition, as a multiple of c_t")
    angles: bool = key(True, "add each template's torsion angles to the MSA as a row")


@dataclass(frozen=True, kw_only=True)
class StructureConfig:
    layers: int = key(0, "iterations of the structure module, which share their weights; 0: no structure")
    c_s: int = key(384, "channels of the single representation")
    heads: int = key(12, "heads of the invariant point attention")
    scalar_dim: int = key(16, "channels of its scalar queries, keys and values, a head")
    query_points: int = key(4, "points of its queries and keys, a head")
    value_points: int = key(8, "points of its values, a head")
    c_sidechain: int = key(128, "channels of the torsion angle network")
    c_confidence: int = key(128, "hidden channels of the predicted-lDDT head")
    dropout: float = key(0.1, "dropout of its attention and transition")
    aligned_error: bool = key(False, "predict the aligned error, and the TM-score from it")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    blocks: int = key(MISSING, "Evoformer blocks")
    c_m: int = key(MISSING, "channels of the MSA representation")
    c_z: int = key(MISSING, "channels of the pair representation")
    msa_heads: int = key(MISSING, "heads of the MSA row and column attention")
    msa_head_dim: int | None = key(None, "channels of an MSA attention head; null: c_m / msa_heads")
    pair_heads: int = key(MISSING, "heads of the triangle attention")
    pair_head_dim: int | None = key(None, "channels of a triangle attention head; null: c_z / pair_heads")
    c_outer: int = key(32, "channels of each side of the outer product mean")
    c_triangle: int = key(MISSING, "channels inside the triangle multiplication")
    transition_factor: int = key(4, "hidden channels of a transition, as a multiple of its input")
    msa_dropout: float = key(0.15, "dropout of the MSA row attention")
    pair_dropout: float = key(0.25, "dropout of the triangle updates")
    position: str = key(
        "clipped",
        "relative positions in the pair representation: AlphaFold's clipped one-hot, or sinusoidal",
        ("clipped", "sinusoidal"),
    )
    init: str = key(
        "af2",
        "initial weights: AlphaFold's (each block starts as the identity), or LeCun normal everywhere",
        ("af2", "lecun"),
    )
    recycles: int = key(0, "passes before the last one, at most; a training step draws how many, each equally likely")
    extra_msa: ExtraMSAConfig = group(ExtraMSAConfig, "the extra MSA stack")
    template: TemplateConfig = group(TemplateConfig, "the template embedding")
    structure: StructureConfig = group(StructureConfig, "the structure module and its heads")
    loss: LossConfig = group(LossConfig, "weights of the losses")


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    data: int = key(-1, "replicas of the model that split the batch; -1: the devices that the other axes leave")
    fsdp: int = key(1, "devices that split parameters, optimizer state and EMA, and the batch; -1: the rest")
    context: int = key(1, "devices that split one example's MSA rows, residues and pair rows; -1: the rest")
    microbatch: int = key(1, "examples of a device that pass through the model together")
    remat: str = key(
        "auto",
        "what is computed again in the backward pass: nothing, a block but for what other devices sent, or all of a "
        "block; auto: as little as memory allows",
        ("auto", "none", "gathered", "block"),
    )
    simulate: int = key(0, "make this many CPU devices instead of using the machine's; 0: use the machine's")


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    chips: int | None = key(None, "number of chips, or GPUs")
    devices_per_chip: int = key(1, "devices that JAX sees of a chip")
    topology: str | None = key(None, "libtpu's name of their arrangement; null: no TPUs")
    peak_tflops: float | None = key(None, "bf16 peak of one device in TFLOP/s, for time/utilisation; null: not logged")
    memory_gib: float | None = key(None, "memory of one device in GiB, which mesh.remat=auto fills; null: not known")
    memory_gbps: float | None = key(None, "GB/s that a device moves to and from its memory")
    link_gbps: float | None = key(None, "GB/s that a device receives from those it has a fast link to")
    network_gbps: float | None = key(None, "GB/s that a device receives from others")
    linked_devices: int | None = key(None, "devices that fast links connect; null: all")
    usd_per_chip_hour: float | None = key(None, "price of a chip in US dollars an hour")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    lr: float = key(1e-3, "learning rate of Adam after the warm-up")
    b1: float = key(0.9, "decay of Adam's first moment")
    b2: float = key(0.999, "decay of Adam's second moment")
    eps: float = key(1e-6, "Adam's epsilon")
    warmup_examples: int = key(128_000, "examples over which the learning rate rises linearly from 0")
    decay_examples: int | None = key(6_400_000, "examples after which the rate drops once; null: never")
    decay_factor: float = key(0.95, "the factor of that drop")
    clip: str = key(
        "per_example",
        "what is clipped: each example's gradient before averaging, the averaged one, or nothing",
        ("per_example", "global", "none"),
    )
    clip_norm: float = key(0.1, "the largest global norm that clipping lets pass")
    ema_decay: float = key(
        0.999, "decay per step of the parameter average that evaluation uses; 0: the parameters themselves"
    )
    max_skipped: int = key(10, "end the run as diverged after this many non-finite gradients in a row")


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    compute: str = key(
        "float32", "dtype of activations and matrix products; parameters stay float32", ("float32", "bfloat16")
    )
    matmul: str = key(
        "highest",
        "how an accelerator multiplies float32 matrices",
        ("default", "high", "highest"),
    )


@dataclass(frozen=True, kw_only=True)
class KernelsConfig:
    attention: str = key(
        "xla",
        "how attention is computed: all rows at once (on a CPU, as many as its cache holds), in chunks recomputed "
        "backward (the outer product mean too), or by cuEquivariance (NVIDIA)",
        ("xla", "xla_chunked", "cueq"),
    )
    chunk_rows: int | None = key(None, "rows of a chunk, for attention=xla_chunked")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every: int = key(1000, "steps between checkpoints; one is also written after each evaluation and at the end")
    keep: int = key(2, "newest checkpoints that are kept, beside the best")
    best: str = key("loss", "evaluation metric that names the best checkpoint and is the run's objective")


@dataclass(frozen=True, kw_only=True)
class LoggerConfig:
    every: int = key(10, "steps between rows of metrics.jsonl")
    figures: bool = key(True, "draw figures after each evaluation")
    wandb: str = key(
        "auto",
        "Weights & Biases: online if there are credentials, else offline; or one of these always",
        ("auto", "online", "offline", "off"),
    )
    project: str = key("evotrain", "W&B project")
    entity: str | None = key(None, "W&B team or user; null: your default")
    timeout: int = key(10, "seconds to wait for W&B before going on offline")


@dataclass(frozen=True, kw_only=True)
class DebugConfig:
    nans: bool = key(False, "stop at the first NaN, at the operation that made it (slow)")
    transfer_guard: bool = key(False, "make an implicit copy between host and device in the loop an error")
    check_replicas: bool = key(False, "compare every replicated array across its devices before each checkpoint")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    checkpoint: str = key("best", "which checkpoint of run_dir: best, last, or a step")
    examples: int | None = key(None, "held-out examples; null: as many as the data set's eval_examples")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    input: str | None = key(None, "alignment (a3m) or sequences (FASTA) to predict, or a directory of them")
    weights: str | None = key(None, "AlphaFold 2's published parameters (.npz); null: a checkpoint of run_dir")
    checkpoint: str = key("best", "which checkpoint of run_dir: best, last, or a step")
    out: str | None = key(None, "directory that is written; null: predict in run_dir, or predictions with weights")
    recycles: int = key(3, "passes after the first, at most")
    tolerance: float = key(0.5, "stop recycling when Cα distances change by less, root mean square in Å; 0: never")


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    search: bool = key(
        False, "try every mesh, mesh.remat and micro-batch, and plan one that fits and is as cheap as any"
    )
    out: str | None = key(None, "directory that is written; null: plan/TARGET in run_dir")


@dataclass(frozen=True, kw_only=True)
class InfoConfig:
    arrays: bool = key(False, "list every array of parameters: its shape, and the dimension that fsdp splits")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    out: str | None = key(None, "directory that is written")
    shard: str = key("0/1", "the part i/n of the work that this process does, 0 ≤ i < n, for n jobs on a cluster")
    workers: int | None = key(None, "processes that read proteins; null: one for each CPU core")
    proteins_per_file: int = key(1024, "proteins of one ArrayRecord file")


@dataclass(frozen=True, kw_only=True)
class Config:
    command: str = key("train", "what to do", ("train", "prepare", "info", "plan", "evaluate", "predict"))
    name: str = key(MISSING, "the run's name; names its directory and its W&B run")
    run_dir: str = key("runs/${name}", "where everything of the run is written; the same at every restart")
    seed: int = key(0, "seed of everything random: weights, data order, masking, dropout")
    steps: int = key(MISSING, "optimizer steps of the whole run")
    batch_size: int = key(MISSING, "examples of a step, over all devices")
    eval_every: int = key(MISSING, "steps between evaluations; 0: only at the end")
    init_from: str | None = key(
        None, "what the run starts from: a run directory (its best parameters), or AlphaFold 2's parameters (.npz)"
    )
    resume: str = key(
        "auto",
        "continue from run_dir's checkpoint: if there is one, never, or fail without one",
        ("auto", "never", "must"),
    )
    resume_allow: list[str] = key(
        [], "keys that may differ from those the run was started with; data: all of its keys, and its proteins too"
    )
    model: ModelConfig = group(ModelConfig, "the network")
    mesh: MeshConfig = group(MeshConfig, "how devices share the work")
    target: TargetConfig = group(TargetConfig, "the hardware")
    optimizer: OptimizerConfig = group(OptimizerConfig, "the optimizer")
    data: DataConfig = group(DataConfig, "the data")
    precision: PrecisionConfig = group(PrecisionConfig, "number formats")
    kernels: KernelsConfig = group(KernelsConfig, "implementations of the heavy operations")
    checkpoint: CheckpointConfig = group(CheckpointConfig, "what is saved, and when")
    logger: LoggerConfig = group(LoggerConfig, "what is reported, and where")
    debug: DebugConfig = group(DebugConfig, "aids for finding a fault")
    prepare: PrepareConfig = group(PrepareConfig, "for command=prepare")
    info: InfoConfig = group(InfoConfig, "for command=info")
    plan: PlanConfig = group(PlanConfig, "for command=plan")
    evaluate: EvaluateConfig = group(EvaluateConfig, "for command=evaluate")
    predict: PredictConfig = group(PredictConfig, "for command=predict")


# Evaluation metrics that can name the best checkpoint, and which end is good.
BEST_MODES = {
    "loss": "min",
    "loss/masked_msa": "min",
    "loss/distogram": "min",
    "masked_msa/perplexity": "min",
    "masked_msa/accuracy": "max",
    "contact/precision_at_L": "max",
    "contact/precision_at_L2": "max",
    "contact/precision_at_L5": "max",
    "structure/lddt_ca": "max",
    "structure/gdt_ts": "max",
    "structure/tm_score": "max",
    "structure/rmsd": "min",
}


def best_mode(metric: str) -> str:
    """Whether the best of an evaluation metric is its smallest value, "min", or its largest, "max"."""
    return BEST_MODES[metric]
