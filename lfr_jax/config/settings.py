"""Every setting of a run, as frozen dataclasses. A field's type gives its range, its comment meaning and unit.

A file in `configs/` builds one `Config`; the command line overrides any field by its
dotted name (`--train.steps 500`). The resolved config is saved beside the run's results.
"""

import dataclasses
import json
from typing import Annotated, Any, Literal, get_type_hints

from msgspec import Meta

from lfr_jax.config.values import (
    LARGEST_INT,
    AtLeast0,
    AtLeast1,
    NotNegative,
    Positive,
    Seed,
    Share,
    ShareAbove0,
    ShareBelow1,
    check_value,
    converted,
    described,
    plain,
    shown,
)

Seconds = Annotated[float, Meta(gt=0, le=1e8)]
NumDevices = Annotated[int, Meta(ge=-1, le=LARGEST_INT)]
ProcessId = Annotated[int, Meta(ge=-1, le=LARGEST_INT)]
Stratify = Literal["", "domain", "cluster", "length"]
Packing = Literal["concatenate", "best_fit", "by_length"]
Remat = Literal["none", "dots", "products", "offload", "block"]
Curriculum = Literal["uniform", "grow_linear", "grow_p2", "grow_p100"]


def may_change(default: Any) -> Any:
    """A field that may differ when a run goes on: it changes no result, or only the rounding of sums.

    All other settings must be those that the run began with, see `check_resumable`.
    """
    return dataclasses.field(default=default, metadata={"may_change": True})


class Section:
    """A section of the settings. Its fields are checked when it is made, so a bad value is named before any work.

    Raises:
      ValueError: a field has another type than it declares, or is out of the range that it declares.
    """

    def __post_init__(self):
        section = type(self).__name__.removesuffix("Config").lower()
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            value = plain(getattr(self, name))
            check_value(f"{section}.{name}", value, kind)
            object.__setattr__(self, name, converted(value, kind))  # a Decimal, for example, is no number of JSON


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Which token store is read, and how it is cut into blocks."""

    store: str = may_change("data/smoke")  # folder that `lfr prepare` wrote, or its URL (gs://bucket/data/smoke)
    seq_len: AtLeast1 = 1024  # tokens in a block (inputs; targets are shifted by one)
    workers: AtLeast0 = may_change(0)  # Grain worker processes; 0 reads in threads of this process
    cache: str | None = may_change(None)  # copies of what a URL holds; '': none; None: $LFR_CACHE or ~/.cache/lfr_jax
    packing: Packing = "concatenate"  # how documents become training blocks
    shortest: AtLeast1 = 64  # by_length: tokens in the shortest blocks, a power of two as seq_len then is
    curriculum: Curriculum = "uniform"  # by_length: the order of the lengths within a phase
    cycles: AtLeast1 = 8  # by_length: times that a curriculum begins anew in a phase
    fim_rate: Share = 0.0  # share of the documents in a training block that become fill-in-the-middle
    fim_spm_rate: Share = 0.5  # share of these that have the suffix first; in the others the prefix stands first


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """One decoder. `gpt2(...)` and `llama(...)` below fill it in for the two families."""

    vocab_size: AtLeast1 = 50304  # rows of the embedding; may exceed the tokenizer's (padding)
    num_layers: AtLeast1 = 12
    dim: AtLeast1 = 768  # width of the residual stream
    num_heads: AtLeast1 = 12  # query heads
    num_kv_heads: AtLeast1 = 12  # key/value heads; fewer than num_heads = grouped-query attention
    mlp_dim: AtLeast1 = 3072  # hidden width of the MLP
    max_len: AtLeast1 = 1024  # longest sequence: rows of the position table, length of the decoding cache
    positions: Literal["learned", "rope"] = "learned"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    bias: bool = True  # biases in linear layers and norms
    tied_head: bool = True  # the output head is the embedding, transposed
    rope_theta: Positive = 10_000.0  # base of the rotary frequencies
    norm_eps: Positive = 1e-5
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; params are float32
    attention: Literal["auto", "xla", "blocked", "cudnn", "splash"] = may_change("auto")  # auto: by platform
    remat: Remat = may_change("products")  # what each layer keeps for the backward pass, see model/remat.py
    mask_documents: bool = False  # attention and loss do not cross end-of-text tokens
    reset_positions: bool = False  # positions begin at 0 with each document; needs mask_documents
    loss_chunk: AtLeast1 = may_change(1024)  # rows (tokens) of a device whose logits exist at once, in the loss

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.num_heads:
            raise ValueError(f"model.dim={self.dim} is not divisible by model.num_heads={self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} is not divisible by model.num_kv_heads={self.num_kv_heads}"
            )
        if self.positions == "rope" and self.dim // self.num_heads % 2:
            raise ValueError(
                f"model.dim={self.dim} over model.num_heads={self.num_heads} gives heads of width "
                f"{self.dim // self.num_heads}, expected an even width: rotary positions turn pairs of numbers"
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
class ScheduleConfig(Section):
    """Which policy of `lfr_jax.schedule` chooses the data, and what it is told of the blocks."""

    policy: str = "uniform"  # name of a function in lfr_jax.schedule, or module:function
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # its arguments: --schedule.options.NAME VALUE
    stratify: Stratify = ""  # each domain, cluster or length keeps its share of the draws; "": none does
    floor: Share = 0.0  # each block is drawn at least at this share of the mean rate
    cap_noise: ShareBelow1 = 0.0  # share of the blocks, those of the highest loss, that is not drawn at all
    unbiased: bool = False  # blocks count alike in the loss, however often they are drawn
    score_fraction: ShareAbove0 = 1.0  # share of the blocks that a scoring pass reads
    clusters: AtLeast0 = 0  # groups of blocks with like words, made when a run begins; 0: none
    ref_model: str = ""  # folder of a run, where the policy asks for "ref_token_losses": its model reads each batch too
    held_out_blocks: AtLeast1 = 8  # whose gradient a step takes, where the policy asks for "grad_dot"
    ref_scores: str = ""  # files that `lfr score` wrote, under a reference model,
    weak_scores: str = ""  # ... under the weaker of two,
    strong_scores: str = ""  # ... and under the stronger
    columns: tuple[str, ...] = ()  # other numbers by block or document: NAME=FILE, CSV or Parquet

    def __post_init__(self):
        super().__post_init__()
        names = [word.partition("=")[0] for word in self.columns]
        for word, name in zip(self.columns, names):
            if not (name.isidentifier() and word.partition("=")[2]) or names.count(name) > 1:
                raise ValueError(f"schedule.columns has {shown(word)}, expected NAME=FILE, each name once")
        try:
            json.dumps(self.options, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"schedule.options is {shown(self.options)}, expected values that JSON can hold, as a run saves them "
                f"({error})"
            ) from None


@dataclasses.dataclass(frozen=True)
class InitConfig(Section):
    """What a run begins from: random weights, or a checkpoint of another run, RUN@STEP; RUN alone is its newest one."""

    run: str = ""  # branch: goes on from the whole state, at STEP, with the learning rate and the end of this run
    params: str = ""  # begins at step 0 from the weights alone: fine-tuning, other data, another policy

    def __post_init__(self):
        super().__post_init__()
        if self.run and self.params:
            raise ValueError(
                f"found init.run={self.run} and init.params={self.params}: a run begins from one checkpoint; leave one "
                "of the two out"
            )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """The optimizer, its learning rate (a warm-up and one of three schedules), and clipping."""

    name: str = "adamw"  # one of train.optimizer.OPTIMIZERS
    peak_lr: Positive = 6e-4
    end_lr: NotNegative = 6e-5  # learning rate of the last step (cosine, wsd)
    lr_schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_steps: AtLeast0 = 100  # steps of linear warm-up from 0
    decay_fraction: Share = 0.2  # wsd: share of all steps in the final decay
    beta1: ShareBelow1 = 0.9
    beta2: ShareBelow1 = 0.95
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.1  # on matrices; never on norms, biases
    clip_norm: NotNegative = 1.0  # global gradient norm; 0 turns clipping off


@dataclasses.dataclass(frozen=True)
class MeshConfig(Section):
    """How many devices lie along each axis of the mesh; -1 takes all that remain."""

    data: NumDevices = may_change(-1)  # the batch is split, params are copied
    fsdp: NumDevices = may_change(1)  # the batch is split, params are split too
    tensor: NumDevices = may_change(1)  # heads and MLP are split

    def __post_init__(self):
        super().__post_init__()
        for axis in ("data", "fsdp", "tensor"):
            if getattr(self, axis) == 0:
                raise ValueError(f"mesh.{axis} is 0, expected the number of devices along this axis, or -1")


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """The loop: how long, how much at once, how often it looks up."""

    steps: AtLeast0 = 0  # optimizer steps; the phases are stretched to fill them. 0: the policy's own lengths
    batch_size: AtLeast1 = 64  # blocks in a step, over all devices
    grad_accum_steps: AtLeast1 = may_change(1)  # micro-batches that a step's batch is cut into
    score_batch_size: AtLeast0 = may_change(0)  # blocks at once in scoring and evaluation; 0: a micro-batch
    seed: Seed = 0
    log_every: AtLeast1 = may_change(10)  # steps between two readings of the metrics
    eval_every: AtLeast0 = may_change(1000)  # steps between two evaluations; 0: only at the end
    eval_blocks: AtLeast1 = 256  # held-out blocks evaluated in each domain
    probe_blocks: AtLeast0 = 1024  # training blocks whose losses and rates are written down throughout; 0: none
    checkpoint_every: AtLeast0 = may_change(1000)  # steps between two checkpoints; 0: only the one at the end
    keep_checkpoints: AtLeast1 = may_change(2)  # the newest ones that stay on disk


@dataclasses.dataclass(frozen=True)
class DistributedConfig(Section):
    """The processes that train together, one a host. Where JAX detects them (TPU pods, Slurm), nothing is to be set."""

    coordinator: str = may_change("")  # HOST:PORT of process 0, where all others reach it
    num_processes: AtLeast0 = may_change(0)  # 1: this one alone, whatever is detected
    process_id: ProcessId = may_change(-1)  # of this process, from 0; -1: as detected
    start_timeout: Seconds = may_change(60.0)  # seconds that a process waits for the others to come
    heartbeat_timeout: Seconds = may_change(100.0)  # seconds of silence after which a process counts as dead


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    run_dir: str = may_change("runs/default")  # everything that the run writes
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)

    def __post_init__(self):
        for name, kind in get_type_hints(Config).items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} is {shown(getattr(self, name))}, expected {described(kind)}")
