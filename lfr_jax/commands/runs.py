"""Commands that make a run, or use one."""

import sys
from typing import Literal

import tyro

from lfr_jax.commands.arguments import ready_to_compute
from lfr_jax.config import Config
from lfr_jax.config.values import AtLeast0, AtLeast1, NotNegative, Seed, ShareAbove0, checked
from lfr_jax.config.words import overridden
from lfr_jax.terminal import escaped, printable

Positional = tyro.conf.Positional


def train(args: list[str]) -> None:
    """train, or continue a run:        lfr train configs/smoke.py --train.steps 500"""
    asked, policy, given = overridden(Config, args, "lfr train")
    with ready_to_compute():
        from lfr_jax.distributed.cluster import initialize
        from lfr_jax.train.loop import train
        from lfr_jax.train.policy import switched
        from lfr_jax.train.track.progress import short

    config = switched(asked, policy, given)
    with initialize(config.distributed) as peers:
        done = train(config).summary
        if peers.first:
            print(
                f"finished {config.run_dir}: {done['steps']} steps, {short(done['trained_tokens'])} tokens "
                f"trained, {short(done['scored_tokens'])} scored, held-out loss {done['held_out_loss']['all']:.4f}"
            )


def evaluate(args: list[str]) -> None:
    """held-out loss of a run:          lfr evaluate runs/smoke/lfr"""

    @checked
    def arguments(
        run: Positional[str],
        store: str = "",
        blocks: AtLeast0 = 0,
        half: Literal["", "choose", "report"] = "",
        by_document: str = "",
    ):
        """Measures a run's loss on held-out text, by domain.

        Args:
          run: Run directory.
          store: A prepared corpus, in place of the run's own.
          blocks: Held-out blocks a domain; 0: all.
          half: Show the loss of one half of the documents; "": of all.
          by_document: CSV file to write, or the URL of one: document, domain, half, tokens, bytes, nll (sum, nats).
        """
        if by_document and blocks:
            raise ValueError(f"--by-document measures all held-out blocks, found --blocks {blocks}; leave one out")
        with ready_to_compute():
            from lfr_jax.distributed import cluster
            from lfr_jax.storage.paths import as_path
            from lfr_jax.train import load_run
            from lfr_jax.train.document_losses import by_domain

        cluster.require_one_process("lfr evaluate")
        loaded = load_run.load(run)
        if not by_document:
            return by_domain(load_run.measure_documents(loaded, store, blocks), half), ""
        measured = load_run.write_document_losses(loaded, store, as_path(by_document))
        written = f"{len(measured.nll)} documents; {measured.left_out:,} tokens are in no block: {by_document}"
        return by_domain(measured, half), written

    losses, written = tyro.cli(arguments, args=args, prog="lfr evaluate")
    for domain, (loss, tokens, bits) in losses.items():
        by_bytes = f"  {bits:8.4f} bits/byte" if bits is not None else ""
        print(f"{printable(domain):<16} {loss:8.4f} nats/token  {tokens:>12,} tokens{by_bytes}")
    if written:
        print(written)


def score(args: list[str]) -> None:
    """loss of every training block:    lfr score runs/smoke/lfr --out scores.csv"""

    @checked
    def arguments(
        run: Positional[str],
        out: str,
        store: str = "",
        seq_len: AtLeast0 = 0,
        packing: Literal["", "concatenate", "best_fit", "by_length"] = "",
        shortest: AtLeast0 = 0,
    ):
        """Scores every training block under a run's model, for another run's --schedule.ref-scores.

        Args:
          run: Run directory.
          out: CSV file to write, or the URL of one: block id, domain, loss (mean NLL, nats per token).
          store: A prepared corpus, in place of the run's own.
          seq_len: Tokens in a block; 0: as in the run.
          packing: How documents become blocks; "": as in the run.
          shortest: Of by_length: tokens in the shortest blocks; 0: as in the run.
        """
        with ready_to_compute():
            from lfr_jax.distributed import cluster
            from lfr_jax.storage.paths import as_path
            from lfr_jax.train import load_run

        cluster.require_one_process("lfr score")
        path, loaded = as_path(out), load_run.load(run)
        return load_run.write_scores(loaded, store, path, seq_len=seq_len, packing=packing, shortest=shortest)

    print(tyro.cli(arguments, args=args, prog="lfr score"))


def generate(args: list[str]) -> None:
    """text from a run's model:         lfr generate runs/smoke/lfr --prompt "def " """

    @checked
    def arguments(
        run: Positional[str],
        prompt: str = "",
        tokens: AtLeast1 = 100,
        temperature: NotNegative = 0.8,
        top_k: AtLeast0 = 0,
        top_p: ShareAbove0 = 1.0,
        seed: Seed = 0,
    ):
        """Writes on from a prompt.

        Args:
          run: Run directory.
          prompt: The text to continue.
          tokens: At most so many new ones, up to end-of-text or model.max_len.
          temperature: 0 always takes the likeliest token.
          top_k: Draw among the k likeliest tokens; 0: all.
          top_p: Draw among the likeliest tokens that hold this share of the probability.
          seed: Of the draws.
        """
        with ready_to_compute():
            from lfr_jax.distributed import cluster
            from lfr_jax.train import load_run

        cluster.require_one_process("lfr generate")
        return load_run.generate(load_run.load(run), prompt, tokens, temperature, top_k, top_p, seed)

    text = tyro.cli(arguments, args=args, prog="lfr generate")
    print(escaped(text, keep="\n\t") if sys.stdout.isatty() else text)
