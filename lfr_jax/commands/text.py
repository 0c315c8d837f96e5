"""Commands that make token stores, and look into them."""

import tyro


def prepare(args: list[str]) -> None:
    """text -> token store:             lfr prepare --out data/mine book.txt talks.jsonl.gz --train-tokenizer"""
    from lfr_jax.prepare.prepare import prepare_paths

    print(tyro.cli(prepare_paths, args=args, prog="lfr prepare"))


def link(args: list[str]) -> None:
    """token files -> token store:      lfr link --out data/owt openwebtext/train.bin --gpt2 tokenizers/gpt2"""
    from lfr_jax.prepare.link import link_paths

    print(tyro.cli(link_paths, args=args, prog="lfr link"))


def data(args: list[str]) -> None:
    """looks into a store:              lfr data info data/mine; also: verify, sample, clean, subset, noise, corrupt"""
    from lfr_jax.prepare.clean.clean import clean_corpus
    from lfr_jax.prepare.corrupt import corrupt_corpus
    from lfr_jax.prepare.inspect import info, sample, verify
    from lfr_jax.prepare.noise import add_noise
    from lfr_jax.prepare.subset import subset_corpus

    commands = {"info": info, "verify": verify, "sample": sample, "clean": clean_corpus}
    commands |= {"subset": subset_corpus, "noise": add_noise, "corrupt": corrupt_corpus}
    tyro.extras.subcommand_cli_from_dict(commands, args=args, prog="lfr data")
