"""A corpus without what it holds twice, and without what it is measured on: the command, and its report."""

import dataclasses
import json
import pathlib
import shutil
from typing import Literal

import numpy as np
import tyro

from lfr_jax.data import tokenizer
from lfr_jax.data.store import open_store
from lfr_jax.prepare.assemble import Count
from lfr_jax.prepare.clean import contamination
from lfr_jax.prepare.clean.contamination import Overlap
from lfr_jax.prepare.clean.duplicates import without_blocks, without_documents
from lfr_jax.prepare.clean.kept import Kept, Sides, whole
from lfr_jax.prepare.clean.near_duplicates import without_near_duplicates
from lfr_jax.prepare.clean.rewrite import rewrite
from lfr_jax.prepare.prepare import cores
from lfr_jax.storage.files import atomic_folder, explain_full_disk, refuse_existing
from lfr_jax.storage.paths import require_local

SHARES = 0.0, 0.2, 0.5, 0.8  # of a held-out document's n-grams: so many documents have more, or as many
SHOWN = 3  # examples that are printed
CELL = 22  # columns of a table's cell


@dataclasses.dataclass(frozen=True)
class Steps:
    """What to leave out, in this order.

    Args:
      duplicates: Documents whose tokens are those of a document before.
      near_duplicates: Documents that share this much of their n-grams (Jaccard's index) with a document before: 0.8.
      shingle: Tokens in such an n-gram.
      contamination: Tokens in an n-gram that is looked for on both sides. What is found is always reported.
      common: N-grams in more training documents than this are passed over.
      decontaminate: train: cut what is shared out of training documents; valid: leave the held-out documents out.
      overlap: Share of a held-out document's n-grams that are in train, from which it counts as contaminated.
      block_duplicates: Blocks of so many tokens that are those of a block before.
      examples: So many examples of each step are told.
    """

    duplicates: bool = False
    near_duplicates: float | None = None
    shingle: int = 5
    contamination: int = 13
    common: int = 10
    decontaminate: Literal["train", "valid"] | None = None
    overlap: float = 0.5
    block_duplicates: int | None = None
    examples: int = 20

    def check(self) -> None:
        """Raises ValueError if a number is out of its range."""
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 0.99:
            raise ValueError(f"found --near-duplicates {self.near_duplicates}, expected more than 0, at most 0.99")
        if not 0 <= self.overlap <= 1:
            raise ValueError(f"found --overlap {self.overlap}, expected a share: 0 to 1")
        for name in ("shingle", "contamination", "block_duplicates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"found --{name.replace('_', '-')} {value}, expected at least 1 token")


class Report:
    """What was left out, step by step, by domain; and what held-out documents share with the training text."""

    def __init__(self, before: Sides):
        self.counts = {side: {"before": counted(getattr(before, side))} for side in Sides._fields}
        self.examples: dict[str, list[dict]] = {}
        self.shared: dict[str, dict[str, int]] = {}

    def step(self, name: str, before: Sides, after: Sides, examples: list[dict] = ()) -> Sides:
        """Takes down what a step left out, and hands on what stays.

        Raises:
          ValueError: nothing stays of a side.
        """
        for side in Sides._fields:
            was, left = getattr(before, side), getattr(after, side)
            if not len(left.start_D):
                raise ValueError(f"{was.store.path}: nothing stays of it after the step {name!r}; leave less out")
            self.counts[side][name] = gone(was, left)
        self.examples[name] = list(examples)
        return after

    def contamination(self, sides: Sides, overlap: Overlap, examples: int) -> None:
        """Takes down which held-out documents share n-grams with the training text."""
        valid, domains = sides.valid, sides.valid.store.domains
        domain_D = domain_of(valid)
        for number, domain in enumerate(domains):
            share_D = overlap.share_D[domain_D == number]
            above = {
                f">={share:.0%}" if share else ">0%": np.sum((share_D >= share) & (share_D > 0)) for share in SHARES
            }
            self.shared[domain] = {"documents": len(share_D)} | {name: int(count) for name, count in above.items()}
        worst = np.argsort(-overlap.share_D, kind="stable")[:examples].tolist()
        self.examples["contamination"] = [
            sides.place(number)
            | {
                "share_in_train": round(float(overlap.share_D[number]), 4),
                "most_of_it_first_in": sides.place(len(valid.start_D) + mostly_in(overlap, number)),
            }
            for number in worst
            if overlap.share_D[number] > 0
        ]

    def as_json(self, after: Sides) -> dict:
        sides = {}
        for side in Sides._fields:
            steps = self.counts[side] | {"after": counted(getattr(after, side))}
            sides[side] = {name: {domain: n._asdict() for domain, n in of.items()} for name, of in steps.items()}
        return sides | {"contamination": self.shared, "examples": self.examples}

    def told(self, steps: Steps, after: Sides) -> str:
        """The report in words and tables."""
        parts = []
        for side in Sides._fields:
            columns = self.counts[side] | {"after": counted(getattr(after, side))}
            rows = [(f"{side}: documents / tokens", *columns)]
            rows += [(domain, *(cell(of[domain]) for of in columns.values())) for domain in columns["before"]]
            parts.append(table([*rows, ("all", *(cell(total(of)) for of in columns.values()))]))
        names = [
            "held-out documents",
            *(f"sharing {name}" for name in next(iter(self.shared.values())) if name[0] == ">"),
        ]
        rows = [(f"{steps.contamination}-grams in train", *names)]
        rows += [(domain, *(f"{count:,}" for count in of.values())) for domain, of in self.shared.items()]
        parts.append(
            table([*rows, ("all", *(f"{sum(c):,}" for c in zip(*(of.values() for of in self.shared.values()))))])
        )
        for step, examples in self.examples.items():
            parts += ["\n".join(f"{step}: {in_words(example)}" for example in examples[:SHOWN])] if examples else []
        return "\n\n".join(parts)


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
def clean(
    prepared: tyro.conf.Positional[str],
    *,
    out: str | None = None,
    dry_run: bool = False,
    steps: tyro.conf.OmitArgPrefixes[Steps] = Steps(),
    workers: int = 0,
) -> None:
    """Copies a corpus without duplicates, near-duplicates, and what its held-out text shares with it.

    Args:
      prepared: What `lfr prepare` or `lfr link` wrote. It stays as it is.
      out: Folder to write. It must not exist. Equal input and options give equal bytes.
      dry_run: Report what would be left out, and write nothing.
      steps: What to leave out.
      workers: Processes that look for near-duplicates; 0: as many as there are cores.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError: no corpus there.
      ValueError: an option out of its range, damaged files, or nothing left of a side.
    """
    if out is None and not dry_run:
        raise ValueError("found neither --out nor --dry-run; expected --out FOLDER, or --dry-run for the report alone")
    if out is not None:
        refuse_existing(out)
    folder = require_local(prepared)
    steps.check()
    stores = [open_store(folder / side) for side in Sides._fields]
    words = tokenizer.load(folder / "tokenizer")
    for store in stores:
        store.verify()
    before = Sides(*map(whole, stores))
    after, report = cleaned(before, steps, workers or cores())
    if not dry_run:
        with explain_full_disk(out), atomic_folder(out) as made:
            for side in Sides._fields:
                rewrite(getattr(after, side), made / side)
            words.save(made / "tokenizer")
            card = {"cleaned": {side: getattr(before, side).store.fingerprint for side in Sides._fields}}
            card |= {"steps": dataclasses.asdict(steps)} | report.as_json(after)
            (made / "cleaned.json").write_text(json.dumps(card, indent=1) + "\n")
            carry_over(folder, made, after)
    print(report.told(steps, after))


def cleaned(sides: Sides, steps: Steps, workers: int) -> tuple[Sides, Report]:
    """What stays after the steps, and what to tell of them."""
    report = Report(sides)
    if steps.duplicates:
        sides = report.step("duplicates", sides, *without_documents(sides, steps.examples))
    if steps.near_duplicates:
        left = without_near_duplicates(sides, steps.near_duplicates, steps.shingle, workers, steps.examples)
        sides = report.step("near-duplicates", sides, *left)
    overlap = contamination.measure(sides, steps.contamination, steps.common)
    report.contamination(sides, overlap, steps.examples)
    if steps.decontaminate == "train":
        sides = report.step("contaminated", sides, contamination.without_shared(sides, overlap, steps.overlap))
    elif steps.decontaminate == "valid":
        sides = report.step("contaminated", sides, contamination.without_held_out(sides, overlap, steps.overlap))
    if steps.block_duplicates:
        sides = report.step("blocks", sides, *without_blocks(sides, steps.block_duplicates, steps.examples))
    return sides, report


def carry_over(folder: pathlib.Path, made: pathlib.Path, after: Sides) -> None:
    """What `lfr prepare --append` needs, if it is there: the split, and digests of all texts that were ever in."""
    if (folder / "prepared.json").is_file():
        card = json.loads((folder / "prepared.json").read_text())
        for side in Sides._fields:
            card[side] = {domain: n._asdict() for domain, n in counted(getattr(after, side)).items()}
        (made / "prepared.json").write_text(json.dumps(card, indent=1) + "\n")
    if (folder / "seen.npy").is_file():
        shutil.copyfile(folder / "seen.npy", made / "seen.npy")


def counted(kept: Kept) -> dict[str, Count]:
    """How much there is of each domain."""
    domains, domain_D = kept.store.domains, domain_of(kept)
    documents = np.bincount(domain_D, minlength=len(domains))
    tokens = np.bincount(domain_D, kept.length_D, minlength=len(domains))  # in doubles, exact up to 2^53
    return {domain: Count(int(documents[i]), int(tokens[i])) for i, domain in enumerate(domains)}


def gone(before: Kept, after: Kept) -> dict[str, Count]:
    """The documents of which nothing stays, and the tokens that do not."""
    stays_D = np.zeros(len(before.start_D), bool)
    stays_D[np.searchsorted(before.start_D, after.start_D, side="right") - 1] = True
    was, left, out = counted(before), counted(after), counted(before.take(~stays_D))
    return {domain: Count(out[domain].documents, was[domain].tokens - left[domain].tokens) for domain in was}


def domain_of(kept: Kept) -> np.ndarray:
    """int64[D]: index into the store's domains."""
    store = kept.store
    return np.array([store.domains.index(source.domain) for source in store.sources])[kept.source_D]


def mostly_in(overlap: Overlap, number: int) -> int:
    """The training document that is the first with most of the n-grams that a held-out document shares."""
    gram = np.unique(overlap.grams.gram_P[overlap.grams.run_P == number])
    return int(np.argmax(np.bincount(overlap.first_G[gram[overlap.in_train_G[gram]]])))


def total(of: dict[str, Count]) -> Count:
    return Count(*(sum(column) for column in zip(*of.values())))


def cell(count: Count) -> str:
    return f"{count.documents:,} / {count.tokens:,}"


def table(rows: list[tuple]) -> str:
    return "\n".join(f"{row[0]:<27}" + "".join(f"{cell:>{CELL}}" for cell in row[1:]) for row in rows)


def in_words(example: dict) -> str:
    """One line of an example: what it is, what it equals, and how much."""
    words = []
    for name, value in example.items():
        if name == "side":
            words.append(f"{value}: document {example['document']:,} of {example['domain']}, {example['source']}")
        elif isinstance(value, dict):
            words.append(f"{name.replace('_', ' ')} {in_words(value)}")
        elif name not in ("document", "domain", "source"):
            words.append(f"{name.replace('_', ' ')} {value}")
    return "; ".join(words)
