"""Every setting of a run, as frozen dataclasses. A field's comment gives its meaning and unit.

A file in `configs/` builds one `Config`; the command line overrides any field by its
dotted name (`--train.steps 500`). The resolved config is saved beside the run's results.
"""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

# Old names of settings. A config file or an option that uses one is refused with the new name; the saved settings of a
# run that began under the old name are read under the new one, so that the run goes on.
RENAMED = {
    "optimizer.warmup": "optimizer.warmup_steps",
    "optimizer.shape": "optimizer.lr_schedule",
    "optimizer.decay": "optimizer.decay_fraction",
    "train.accumulate": "train.grad_accum_steps",
    "train.score_batch": "train.score_batch_size",
    "distributed.heartbeat": "distributed.heartbeat_timeout",
}

Packing = Literal["concatenate", "best_fit", "by_length"]
Curriculum = Literal["uniform", "grow_linear", "grow_p2", "grow_p100"]


def may_change(default: Any) -> Any:
    """A field that may differ when a run goes on: it changes no result, or only the rounding of sums.

    All other settings must be those that the run began with, see `check_resumable`.
    """
    return dataclasses.field(default=default, metadata={"may_change": True})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which token store is read, and how it is cut into blocks."""

    store: str = may_change("data/smoke")  # folder that `lfr prepare` wrote, or its URL (gs://bucket/data/smoke)
    seq_len: int = 1024  # tokens in a block (inputs; targets are shifted by one)
    workers: int = may_change(0)  # Grain worker processes; 0 reads in threads of this process
    cache: str | None = may_change(None)  # copies of what a URL holds; '': none; None: $LFR_CACHE or ~/.cache/lfr_jax
    packing: Packing = "concatenate"  # how documents become training blocks
    shortest: int = 64  # by_length: tokens in the shortest blocks, a power of two as seq_len then is
    curriculum: Curriculum = "uniform"  # by_length: the order of the lengths within a phase
    cycles: int = 8  # by_length: times that a curriculum begins anew in a phase
    fim_rate: float = 0.0  # share of the documents in a training block that become fill-in-the-middle
    fim_spm_rate: float = 0.5  # share of these that have the suffix first; in the others the prefix stands first

    def __post_init__(self):
        for name in ("fim_rate", "fim_spm_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} is {getattr(self, name)}, expected a share: 0 to 1")
        if self.cycles < 1:
            raise ValueError(f"data.cycles is {self.cycles}, expected at least 1: a phase is at least one cycle")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One decoder. `gpt2(...)` and `llama(...)` below fill it in for the two families."""

    vocab_size: int = 50304  # rows of the embedding; may exceed the tokenizer's (padding)
    num_layers: int = 12
    dim: int = 768  # width of the residual stream
    num_heads: int = 12  # query heads
    num_kv_heads: int = 12  # key/value heads; fewer than num_heads = grouped-query attention
    mlp_dim: int = 3072  # hidden width of the MLP
    max_len: int = 1024  # longest sequence: rows of the position table, length of the decoding cache
    positions: Literal["learned", "rope"] = "learned"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    bias: bool = True  # biases in linear layers and norms
    tied_head: bool = True  # the output head is the embedding, transposed
    rope_theta: float = 10_000.0  # base of the rotary frequencies
    norm_eps: float = 1e-5
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; params are float32
    attention: Literal["auto", "xla", "cudnn", "splash"] = may_change("auto")  # auto: by platform
    remat: bool = may_change(False)  # recompute each layer's activations in the backward pass
    mask_documents: bool = False  # attention and loss do not cross end-of-text tokens
    reset_positions: bool = False  # positions begin at 0 with each document; needs mask_documents
    loss_chunk: int = may_change(128)  # positions whose logits exist at once in the cross-entropy

    def __post_init__(self):
        if self.dim % self.num_heads:
            raise ValueError(f"model.dim={self.dim} is not divisible by model.num_heads={self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} is not divisible by model.num_kv_heads={self.num_kv_heads}"
            )
        if self.reset_positions and not self.mask_documents:
            raise ValueError(
                "model.reset_positions needs model.mask_documents: tokens of two documents that see each other would "
                "stand at the same positions; set both, or neither"
            )


def gpt2(num_layers: int, dim: int, num_heads: int, **overrides: Any) -> ModelConfig:
    """A GPT-2 shape (Radford et al. 2019): learned positions, LayerNorm, GELU, tied head."""
    sizes = dict(num_layers=num_layers, dim=dim, num_heads=num_heads, num_kv_heads=num_heads, mlp_dim=4 * dim)
    return ModelConfig(**(sizes | overrides))


def llama(num_layers: int, dim: int, num_heads: int, num_kv_heads: int, mlp_dim: int, **overrides: Any) -> ModelConfig:
    """A Llama shape (Touvron et al. 2023): RoPE, RMSNorm, SwiGLU, no biases, own head."""
    sizes = dict(num_layers=num_layers, dim=dim, num_heads=num_heads, num_kv_heads=num_kv_heads, mlp_dim=mlp_dim)
    family = dict(
        vocab_size=32000, max_len=2048, positions="rope", norm="rmsnorm", mlp="swiglu", bias=False, tied_head=False
    )
    return ModelConfig(**(sizes | family | overrides))


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Which policy of `lfr_jax.schedule` chooses the data, and what it is told of the blocks."""

    policy: str = "uniform"  # name of a function in lfr_jax.schedule, or module:function
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # its keyword arguments
    stratify: Literal["", "domain", "cluster", "length"] = (
        ""  # each of these keeps its share of the draws; "": none does
    )
    floor: float = 0.0  # each block is drawn at least at this share of the mean rate
    cap_noise: float = 0.0  # share of the blocks, those of the highest loss, that is not drawn at all
    score_fraction: float = 1.0  # share of the blocks that a scoring pass reads
    clusters: int = 0  # groups of blocks with like words, made when a run begins; 0: none
    ref_scores: str = ""  # files that `lfr score` wrote, under a reference model,
    weak_scores: str = ""  # ... under the weaker of two,
    strong_scores: str = ""  # ... and under the stronger


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, its learning rate (a warm-up and one of three schedules), and clipping."""

    name: str = "adamw"  # one of train.optimizer.OPTIMIZERS
    peak_lr: float = 6e-4
    end_lr: float = 6e-5  # learning rate of the last step (cosine, wsd)
    lr_schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_steps: int = 100  # steps of linear warm-up from 0
    decay_fraction: float = 0.2  # wsd: share of all steps in the final decay
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1  # on matrices; never on norms, biases
    clip_norm: float = 1.0  # global gradient norm; 0 turns clipping off


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices lie along each axis of the mesh; -1 takes all that remain."""

    data: int = may_change(-1)  # the batch is split, params are copied
    fsdp: int = may_change(1)  # the batch is split, params are split too
    tensor: int = may_change(1)  # heads and MLP are split


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop: how long, how much at once, how often it looks up."""

    steps: int = 0  # optimizer steps; the phases are stretched to fill them. 0: the policy's own lengths
    batch_size: int = 64  # blocks in a step, over all devices
    grad_accum_steps: int = may_change(1)  # micro-batches that a step's batch is cut into
    score_batch_size: int = may_change(0)  # blocks at once in scoring and evaluation; 0: a micro-batch
    seed: int = 0
    log_every: int = may_change(10)  # steps between two readings of the metrics
    eval_every: int = may_change(1000)  # steps between two evaluations; 0: only at the end
    eval_blocks: int = may_change(256)  # held-out blocks evaluated in each domain
    probe_blocks: int = 1024  # training blocks, the same throughout, whose losses and rates are written down; 0: none
    checkpoint_every: int = may_change(1000)  # steps between two checkpoints; one is always written at the end
    keep_checkpoints: int = may_change(2)  # the newest ones that stay on disk


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """The processes that train together, one a host. Where JAX detects them (TPU pods, Slurm), nothing is to be set."""

    coordinator: str = may_change("")  # HOST:PORT of process 0, where all others reach it
    num_processes: int = may_change(0)  # 1: this one alone, whatever is detected
    process_id: int = may_change(-1)  # of this process, from 0
    start_timeout: float = may_change(60.0)  # seconds that a process waits for the others to come
    heartbeat_timeout: float = may_change(100.0)  # seconds of silence after which a process counts as dead


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    run_dir: str = may_change("runs/default")  # everything that the run writes
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)


def check_resumable(saved: Config, new: Config) -> None:
    """Raises ValueError that lists every setting which differs and must not.

    >>> check_resumable(Config(), Config(run_dir="elsewhere"))
    """
    before, now, free = flat(saved), flat(new), resumable_settings(Config)
    differing = [name for name in before | now if before.get(name) != now.get(name) and name not in free]
    if differing:
        lines = [f"  {name}: {before.get(name)!r} when it began, now {now.get(name)!r}" for name in differing]
        raise ValueError(
            f"the run in {new.run_dir} cannot go on with other settings:\n" + "\n".join(lines) + "\n"
            "go back to the first ones, or choose another run_dir"
        )


def resumable_settings(cls: type, prefix: str = "") -> set[str]:
    """The dotted names of the settings that may change when a run goes on."""
    names: set[str] = set()
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            names |= resumable_settings(field.type, f"{prefix}{field.name}.")
        elif field.metadata.get("may_change"):
            names.add(prefix + field.name)
    return names


def flat(config: Config) -> dict[str, Any]:
    """Settings by dotted name, with values as they read back from JSON."""

    def items(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from items(f"{prefix}.{key}" if prefix else key, inner)
        else:
            yield prefix, value

    return dict(items("", json.loads(json.dumps(dataclasses.asdict(config)))))


def from_saved(values: dict[str, Any], where: str) -> Config:
    """The settings of a run, from its config.json; old names of settings are read as the new ones.

    Raises:
      ValueError: a setting is unknown. `where` names the file.
    """
    values = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    for old, new in RENAMED.items():
        section, old_name = old.split(".")
        if old_name in values.get(section, {}):
            values[section][new.split(".")[1]] = values[section].pop(old_name)
    return from_dict(Config, values, where)


def from_dict(cls: type, values: dict[str, Any], where: str) -> Any:
    """A dataclass from nested dicts; fields that are absent keep their defaults."""
    fields = {field.name: field.type for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ValueError(
                f"{where}: unknown setting {key!r}; {nearest(key, fields)}known here are {', '.join(fields)}"
            )
    return cls(
        **{
            key: from_dict(fields[key], value, f"{where}: {key}") if dataclasses.is_dataclass(fields[key]) else value
            for key, value in values.items()
        }
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """A question to put into an error message, or nothing.

    >>> nearest("unifrom", ["uniform", "lfr"])
    "did you mean 'uniform'? "
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
