"""A reference model beside the one that is trained, for policies that ask for its losses of tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lfr_jax.config import ModelConfig
from lfr_jax.data import tokenizer
from lfr_jax.data.corpus import Corpus
from lfr_jax.model import decoder
from lfr_jax.storage import checkpoint
from lfr_jax.storage.digests import crc32, leaf_digests, leaves_by_name
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train import loss


class Reference(NamedTuple):
    """A model that does not learn."""

    config: ModelConfig
    params: Any
    token_losses: Callable  # (params, tokens_BxT1) -> f32[B, T], jitted: nats, NaN without a target
    identity: str  # which params they are: another run, or another checkpoint, has another one


def load(run_dir: str, corpus: Corpus, seq_len: int, mesh: jax.sharding.Mesh) -> Reference:
    """The model of the newest checkpoint of another run, on the devices of this one.

    Raises:
      FileNotFoundError: no run, or no checkpoint, is there.
      ValueError: its tokens mean other text, its longest sequence is too short, or it does not fit the mesh.
    """
    run = RunDir(run_dir)
    config = run.load_config().model
    digest = tokenizer.load_tokenizer(run.path / "tokenizer").digest
    if digest != corpus.tokenizer.digest:
        raise ValueError(
            f"schedule.ref_model={run_dir} reads tokens of another tokenizer (sha256 {digest[:12]}…) than data.store "
            f"has ({corpus.tokenizer.digest[:12]}…): train the reference on text that the same tokenizer prepared"
        )
    if config.max_len < seq_len:
        raise ValueError(
            f"schedule.ref_model={run_dir} has model.max_len={config.max_len}, expected at least data.seq_len={seq_len}"
        )
    params, step = checkpoint.restore_params(run.path / "checkpoints", decoder.abstract(config, mesh))
    identity = f"step {step}, digest {crc32(leaf_digests(leaves_by_name(params))):08x}"

    def token_losses(params, tokens_BxT1):
        return loss.block_and_token_nll(config, params, tokens_BxT1, corpus.tokenizer.eos_id)[2]

    return Reference(config, params, jax.jit(token_losses), identity)


def model_of(run_dir: str) -> ModelConfig:
    """The settings of a reference model; nothing else is read."""
    return RunDir(run_dir).load_config().model
