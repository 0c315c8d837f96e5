"""The command `lfr data clean`: a corpus without duplicates, and without its held-out text in train."""

import dataclasses
import pathlib
import shutil
from typing import Annotated, Any, Literal, get_type_hints

import tyro
from msgspec import Meta

from lfr_jax.config.json_files import from_json
from lfr_jax.config.values import AtLeast0, AtLeast1, Share, check_value, checked
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import load_tokenizer
from lfr_jax.prepare.clean import contamination
from lfr_jax.prepare.clean.clean_report import Report, count_by_domain
from lfr_jax.prepare.clean.duplicates import without_blocks, without_documents
from lfr_jax.prepare.clean.kept import Sides, all_documents
from lfr_jax.prepare.clean.near_duplicates import without_near_duplicates
from lfr_jax.prepare.clean.rewrite import write_kept
from lfr_jax.prepare.workers import NumWorkers, cores
from lfr_jax.storage.files import atomic_folder, explain_full_disk, save_json
from lfr_jax.storage.made_from import finished, is_finished, refuse_unless_finished
from lfr_jax.storage.paths import refuse_existing, require_local
from lfr_jax.storage.remote_files import read_bytes

Likeness = Annotated[float, Meta(gt=0, le=0.99)]
NgramLength = Annotated[int, Meta(ge=1, le=1000)]  # tokens


@dataclasses.dataclass(frozen=True)
class Steps:
    """What to leave out, in this order.

    Args:
      duplicates: Leave out documents that have the same tokens as an earlier one.
      near_duplicates: Leave out documents whose n-grams are nearly those of an earlier one: this Jaccard index or more,
        such as 0.8.
      shingle: Tokens in an n-gram for --near-duplicates.
      contamination: Tokens in an n-gram that is searched for in both held-out and training text. What is found is
        always reported.
      common: Ignore n-grams that are in more training documents than this.
      decontaminate: train: cut what is shared out of training documents; valid: leave out the held-out documents.
      overlap: A held-out document counts as contaminated if at least this share of its n-grams is in train.
      block_duplicates: Cut out blocks of so many tokens that have the same tokens as an earlier block.
      examples: Number of examples of each step in the report.
    """

    duplicates: bool = False
    near_duplicates: Likeness | None = None
    shingle: NgramLength = 5
    contamination: NgramLength = 13
    common: AtLeast0 = 10
    decontaminate: Literal["train", "valid"] | None = None
    overlap: Share = 0.5
    block_duplicates: AtLeast1 | None = None
    examples: AtLeast0 = 20

    def check(self) -> None:
        """Raises ValueError if a number is out of its range."""
        for name, kind in get_type_hints(Steps, include_extras=True).items():
            check_value(name, getattr(self, name), kind)


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@checked
def clean_corpus(
    prepared: tyro.conf.Positional[str],
    *,
    out: str | None = None,
    dry_run: bool = False,
    steps: tyro.conf.OmitArgPrefixes[Steps] = Steps(),
    workers: NumWorkers = 0,
) -> None:
    """Copies a corpus without duplicates, near-duplicates, and training text that is also held out.

    Args:
      prepared: What `lfr prepare` or `lfr link` wrote. It stays as it is.
      out: Folder to write. It must not exist. Equal input and options give equal bytes.
      dry_run: Report what would be left out, and write nothing.
      steps: What to leave out.
      workers: Processes that search for near-duplicates; 0: as many as there are cores.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: there is no corpus.
      ValueError: an option is out of its range, files are damaged, or nothing is left of a side.
    """
    if out is None and not dry_run:
        raise ValueError("found neither --out nor --dry-run; expected --out FOLDER, or --dry-run for the report alone")
    if out is not None:
        refuse_unless_finished(out)
    folder = require_local(prepared)
    steps.check()
    stores = [open_store(folder / side) for side in Sides._fields]
    tokenizer = load_tokenizer(folder / "tokenizer")
    made_from = {
        "command": "lfr data clean",
        "corpus": [store.fingerprint for store in stores],
        "steps": dataclasses.asdict(steps),
    }
    if not dry_run:
        if is_finished(out, made_from):
            print(finished(out))
            return
        refuse_existing(out)
    for store in stores:
        store.verify()
    before = Sides(*map(all_documents, stores))
    after, report = apply_steps(before, steps, workers or cores())
    if not dry_run:
        with explain_full_disk(out), atomic_folder(out, made_from) as made:
            for side in Sides._fields:
                write_kept(getattr(after, side), made / side)
            tokenizer.save(made / "tokenizer")
            card = {"cleaned": {side: getattr(before, side).store.fingerprint for side in Sides._fields}}
            card |= {"steps": dataclasses.asdict(steps)} | report.as_json(after)
            save_json(made / "cleaned.json", card)
            carry_over(folder, made, after)
    print(report.as_text(after, steps.contamination))


def apply_steps(sides: Sides, steps: Steps, workers: int) -> tuple[Sides, Report]:
    """What the steps keep, and the report about them."""
    report = Report(sides)
    if steps.duplicates:
        sides = report.step("duplicates", sides, *without_documents(sides, steps.examples))
    if steps.near_duplicates:
        left = without_near_duplicates(sides, steps.near_duplicates, steps.shingle, workers, steps.examples)
        sides = report.step("near-duplicates", sides, *left)
    overlap = contamination.measure_overlap(sides, steps.contamination, steps.common)
    report.contamination(sides, overlap, steps.examples)
    if steps.decontaminate == "train":
        sides = report.step("contaminated", sides, contamination.without_shared(sides, overlap, steps.overlap))
    elif steps.decontaminate == "valid":
        sides = report.step("contaminated", sides, contamination.without_held_out(sides, overlap, steps.overlap))
    if steps.block_duplicates:
        sides = report.step("blocks", sides, *without_blocks(sides, steps.block_duplicates, steps.examples))
    return sides, report


def carry_over(folder: pathlib.Path, made: pathlib.Path, after: Sides) -> None:
    """Copies what `lfr prepare --append` needs, if it is there: the split, and the digests of all texts ever read."""
    if (folder / "prepared.json").is_file():
        card = from_json(read_bytes(folder / "prepared.json"), dict[str, Any], folder / "prepared.json")
        for side in Sides._fields:
            card[side] = {domain: n._asdict() for domain, n in count_by_domain(getattr(after, side)).items()}
        save_json(made / "prepared.json", card)
    if (folder / "seen.npy").is_file():
        shutil.copyfile(folder / "seen.npy", made / "seen.npy")
