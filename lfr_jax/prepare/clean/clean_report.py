"""What cleaning left out, step by step: counts by domain, and examples, as JSON and in words."""

import numpy as np

from lfr_jax.data.domain_names import ALL, unreserved
from lfr_jax.prepare.assemble import Count
from lfr_jax.prepare.clean.contamination import Overlap
from lfr_jax.prepare.clean.kept import Kept, Sides
from lfr_jax.terminal import printable

SHARES = 0.0, 0.2, 0.5, 0.8  # of a held-out document's n-grams; documents with this share or more are counted
SHOWN = 3  # so many examples are printed
CELL = 22  # columns of a cell in the printed tables


class Report:
    """What each step left out, by domain; and what held-out documents share with the training text."""

    def __init__(self, before: Sides):
        self.counts = {side: {"before": count_by_domain(getattr(before, side))} for side in Sides._fields}
        self.examples: dict[str, list[dict]] = {}
        self.shared: dict[str, dict[str, int]] = {}

    def step(self, name: str, before: Sides, after: Sides, examples: list[dict] = ()) -> Sides:
        """Records what a step left out, and returns `after`.

        Raises:
          ValueError: nothing is left of a side.
        """
        for side in Sides._fields:
            was, left = getattr(before, side), getattr(after, side)
            if not len(left.start_D):
                raise ValueError(f"{was.store.path}: nothing is left of it after the step {name!r}; leave less out")
            self.counts[side][name] = count_left_out(was, left)
        self.examples[name] = list(examples)
        return after

    def contamination(self, sides: Sides, overlap: Overlap, examples: int) -> None:
        """Records which held-out documents share n-grams with the training text."""
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
            sides.describe(number)
            | {
                "share_in_train": round(float(overlap.share_D[number]), 4),
                "most_of_it_first_in": sides.describe(len(valid.start_D) + mostly_in(overlap, number)),
            }
            for number in worst
            if overlap.share_D[number] > 0
        ]

    def as_json(self, after: Sides) -> dict:
        sides = {}
        for side in Sides._fields:
            steps = self.counts[side] | {"after": count_by_domain(getattr(after, side))}
            sides[side] = {name: {domain: n._asdict() for domain, n in of.items()} for name, of in steps.items()}
        return sides | {"contamination": self.shared, "examples": self.examples}

    def as_text(self, after: Sides, n: int) -> str:
        """The report as tables and sentences. `n`: tokens in the n-grams that were looked for in train."""
        parts = []
        for side in Sides._fields:
            columns = self.counts[side] | {"after": count_by_domain(getattr(after, side))}
            rows = [(f"{side}: documents / tokens", *columns)]
            rows += [
                (unreserved(domain), *(cell(of[domain]) for of in columns.values())) for domain in columns["before"]
            ]
            parts.append(table([*rows, (ALL, *(cell(total(of)) for of in columns.values()))]))
        names = [
            "held-out documents",
            *(f"sharing {name}" for name in next(iter(self.shared.values())) if name[0] == ">"),
        ]
        rows = [(f"{n}-grams in train", *names)]
        rows += [(unreserved(domain), *(f"{count:,}" for count in of.values())) for domain, of in self.shared.items()]
        parts.append(
            table([*rows, (ALL, *(f"{sum(c):,}" for c in zip(*(of.values() for of in self.shared.values()))))])
        )
        for step, examples in self.examples.items():
            parts += ["\n".join(f"{step}: {in_words(example)}" for example in examples[:SHOWN])] if examples else []
        return "\n\n".join(parts)


def count_by_domain(kept: Kept) -> dict[str, Count]:
    """The documents and tokens of each domain."""
    domains, domain_D = kept.store.domains, domain_of(kept)
    documents = np.bincount(domain_D, minlength=len(domains))
    tokens = np.bincount(domain_D, kept.length_D, minlength=len(domains))  # in doubles, exact up to 2^53
    return {domain: Count(int(documents[i]), int(tokens[i])) for i, domain in enumerate(domains)}


def count_left_out(before: Kept, after: Kept) -> dict[str, Count]:
    """The documents of which nothing is kept, and the tokens that are not kept."""
    stays_D = np.zeros(len(before.start_D), bool)
    stays_D[np.searchsorted(before.start_D, after.start_D, side="right") - 1] = True
    was, left, out = count_by_domain(before), count_by_domain(after), count_by_domain(before.take(~stays_D))
    return {domain: Count(out[domain].documents, was[domain].tokens - left[domain].tokens) for domain in was}


def domain_of(kept: Kept) -> np.ndarray:
    """int64[D]: each span's index into the store's domains."""
    store = kept.store
    return np.array([store.domains.index(source.domain) for source in store.sources])[kept.source_D]


def mostly_in(overlap: Overlap, number: int) -> int:
    """The training document in which most of a held-out document's shared n-grams occur first."""
    gram = np.unique(overlap.grams.gram_P[overlap.grams.span_P == number])
    return int(np.argmax(np.bincount(overlap.first_G[gram[overlap.in_train_G[gram]]])))


def total(of: dict[str, Count]) -> Count:
    return Count(*(sum(column) for column in zip(*of.values())))


def cell(count: Count) -> str:
    return f"{count.documents:,} / {count.tokens:,}"


def table(rows: list[tuple]) -> str:
    return "\n".join(f"{printable(row[0]):<27}" + "".join(f"{cell:>{CELL}}" for cell in row[1:]) for row in rows)


def in_words(example: dict) -> str:
    """An example in one line: what it is, what it equals, and how much."""
    words = []
    for name, value in example.items():
        if name == "side":
            place = printable(f"{example['domain']}, {example['source']}")
            words.append(f"{value}: document {example['document']:,} of {place}")
        elif isinstance(value, dict):
            words.append(f"{name.replace('_', ' ')} {in_words(value)}")
        elif name not in ("document", "domain", "source"):
            words.append(f"{name.replace('_', ' ')} {value}")
    return "; ".join(words)
