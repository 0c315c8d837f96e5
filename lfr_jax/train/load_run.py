"""A run loaded from its directory, to evaluate, to score data, or to generate text."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from lfr_jax.config import Config
from lfr_jax.data import document_loss_files, score_files, tokenizer
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import Corpus, open_corpus
from lfr_jax.data.document_loss_files import DocumentLosses
from lfr_jax.distributed.mesh import make_mesh
from lfr_jax.model import decoder
from lfr_jax.model.generate import generate_ids
from lfr_jax.storage import checkpoint
from lfr_jax.storage.files import explain_full_disk
from lfr_jax.storage.mirror import atomic_file_at
from lfr_jax.storage.paths import Path, as_path
from lfr_jax.storage.run_dir import RunDir
from lfr_jax.train import document_losses, loss, score, steps
from lfr_jax.train.evaluate import chosen_blocks
from lfr_jax.train.track.metrics import csv_line


class LoadedRun(NamedTuple):
    """A run's settings and newest parameters."""

    config: Config
    params: Any
    tokenizer: tokenizer.Tokenizer
    mesh: jax.sharding.Mesh
    step: int  # of the checkpoint


def load(run_dir: str) -> LoadedRun:
    """The parameters of the newest sound checkpoint, on all devices of this machine.

    Raises:
      FileNotFoundError: no run, or no checkpoint, is there.
    """
    run = RunDir(run_dir)
    config, mesh = run.load_config(), make_mesh()
    params, step = checkpoint.restore_params(run.path / "checkpoints", decoder.abstract(config.model, mesh))
    return LoadedRun(config, params, tokenizer.load_tokenizer(run.path / "tokenizer"), mesh, step)


def measure_documents(run: LoadedRun, store: str = "", blocks: int = 0) -> DocumentLosses:
    """Held-out losses by document, on `blocks` blocks of each domain (0: all), of the run's own corpus or `store`."""
    valid = corpus_for(run, store).valid
    return losses_of_documents(run, valid, chosen_blocks(valid, blocks) if blocks else None)


def write_document_losses(run: LoadedRun, store: str, out: Path) -> DocumentLosses:
    """Measures all held-out blocks, and writes the losses by document as CSV, for `read_document_losses`.

    Raises:
      OSError: `out` is something else than such a file, see `document_loss_files.require_replaceable`.
      ValueError: of `corpus_for`.
    """
    document_loss_files.require_replaceable(out)
    valid = corpus_for(run, store).valid
    measured = losses_of_documents(run, valid)
    with explain_full_disk(out), atomic_file_at(out) as file:
        file.write(document_loss_files.origin(measured, valid, run.step))
        file.writelines(map(csv_line, document_loss_files.rows(measured)))
    return measured


def losses_of_documents(run: LoadedRun, blocks: Blocks, ids: np.ndarray | None = None) -> DocumentLosses:
    step, batch_size = document_losses.make_target_step(run.config.model, run.tokenizer.eos_id), score_batch_size(run)
    with jax.set_mesh(run.mesh):
        return document_losses.measure(step, run.params, blocks, run.tokenizer, batch_size, run.mesh, ids)


def write_scores(run: LoadedRun, store: str, out: Path, **cut: int | str) -> str:
    """Writes block id, domain and loss (mean NLL, nats per token) of every training block as CSV.

    `cut` overrides fields of the run's `config.data` that say how blocks are cut. The first line of the file, a
    comment, names the store's fingerprint, how its blocks were cut, and the step, so that
    `score_files.read_scores` can reject scores of other blocks.

    Raises:
      OSError: `out` is something else than a score file, see `score_files.require_replaceable`.
      ValueError: of `corpus_for`.
    """
    score_files.require_replaceable(out)
    blocks = corpus_for(run, store, **cut).train
    with explain_full_disk(out), atomic_file_at(out) as file, jax.set_mesh(run.mesh):
        file.write(score_files.origin(blocks, run.step))
        file.write(csv_line(score_files.COLUMNS))
        measured = score.losses(score_step(run), run.params, blocks, score_batch_size(run), run.mesh)
        loss_N = np.empty(blocks.num_blocks, np.float32)
        for ids_B, nll_B, count_B in score.on_host(measured):
            loss_N[ids_B] = loss.mean_nll(nll_B, count_B)
        domains = (blocks.domains[domain] for domain in blocks.domain_N)
        file.writelines(map(csv_line, zip(range(blocks.num_blocks), domains, loss_N)))
    return f"{blocks.num_blocks} blocks scored at step {run.step}: {out}"


def generate(
    run: LoadedRun, prompt: str, tokens: int, temperature: float, top_k: int = 0, top_p: float = 1.0, seed: int = 0
) -> str:
    """The prompt and what the model adds to it: at most `tokens` tokens, up to end-of-text or `model.max_len`.

    The model reads the prompt as the beginning of a document. In training, documents follow an end-of-text token, so
    one is put before the prompt; with `model.mask_documents` nothing is.

    Raises:
      ValueError: of `generate_ids`; the prompt is not Unicode; or nothing to begin with: no prompt, under
        `model.mask_documents`.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"found a prompt that is not Unicode ({error}), expected text in UTF-8: --prompt") from None
    before = [] if run.config.model.mask_documents else [run.tokenizer.eos_id]
    prompt_ids = [*before, *run.tokenizer.encode(prompt)]
    if not prompt_ids:
        raise ValueError(
            "found an empty prompt and model.mask_documents, under which no model learns how a document begins; give "
            "the first words of the text: --prompt"
        )
    with jax.set_mesh(run.mesh):
        new_ids = generate_ids(
            run.config.model,
            run.params,
            prompt_ids,
            min(tokens, max(1, run.config.model.max_len - len(prompt_ids))),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            eos_id=run.tokenizer.eos_id,
            vocab_size=run.tokenizer.vocab_size,
            key=jax.random.key(seed),
        )
    return run.tokenizer.decode([*prompt_ids[len(before) :], *new_ids])


def corpus_for(run: LoadedRun, store: str, **cut: int | str) -> Corpus:
    """The corpus `store`, or the run's own if "". Blocks are cut as in the run, except for what `cut` says.

    Raises:
      ValueError: another tokenizer made it than the run's, or its blocks are longer than `model.max_len`.
    """
    asked = {name: value for name, value in {"store": store, **cut}.items() if value}
    data = dataclasses.replace(run.config.data, **asked)
    if data.seq_len > run.config.model.max_len:
        raise ValueError(
            f"found blocks of {data.seq_len} tokens, expected at most {run.config.model.max_len}: model.max_len"
        )
    corpus = open_corpus(data)
    if corpus.tokenizer.digest != run.tokenizer.digest:
        raise ValueError(
            f"the tokens of {data.store} were made by another tokenizer (sha256 {corpus.tokenizer.digest[:12]}…) than "
            f"the run's ({run.tokenizer.digest[:12]}…): prepare the text again with the run's tokenizer, which is "
            f"in {as_path(run.config.run_dir) / 'tokenizer'}"
        )
    return corpus


def score_step(run: LoadedRun):
    return steps.make_score_step(run.config.model, run.tokenizer.eos_id)


def score_batch_size(run: LoadedRun) -> int:
    """The run's own scoring batch, rounded up to a multiple of this machine's devices."""
    devices = run.mesh.size
    return -(-(run.config.train.score_batch_size or run.config.train.batch_size) // devices) * devices
