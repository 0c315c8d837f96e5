"""Junk of known kinds among the training blocks; what is clean stays as it was."""

import errno
import json
from unittest.mock import Mock

import numpy as np
import pytest
from helpers import changed, files, tiny, write_tokens

from lfr_jax.commands.text import data
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.corpus import open_corpus
from lfr_jax.data.store import open_store
from lfr_jax.data.tokenizer import Bytes, Ids
from lfr_jax.experiments.results import read_results
from lfr_jax.prepare import derived, noise_kinds
from lfr_jax.prepare.link import link_files
from lfr_jax.train.loop import train

T = 32


def lfr_data(*arguments) -> None:
    data(list(map(str, arguments)))


@pytest.fixture(scope="module")
def german(tmp_path_factory):
    path = tmp_path_factory.mktemp("foreign") / "german.jsonl"
    lines = [{"text": f"Es war einmal ein König, der hatte {n} Töchter. " * 3} for n in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [{"text": "Anfang."}, {}, *lines]))
    return path


@pytest.fixture(scope="module")
def noisy(tmp_path_factory, corpus_dir, german):
    """The small corpus with noise of all kinds."""
    folder = tmp_path_factory.mktemp("noise") / "noisy"
    asked = ("--share", 0.3, "--seq-len", T, "--foreign", german, "--copies", 4)
    lfr_data("noise", corpus_dir, "--out", folder, "--kinds", *noise_kinds.KINDS, *asked)
    return folder


@pytest.fixture
def blocks(noisy):
    """The noisy blocks, and by kind the ids of the junk."""
    cut = Blocks(open_store(noisy / "train"), T)
    names = np.array(cut.domains)[cut.domain_N]
    return cut, {kind: np.flatnonzero(names == f"noise_{kind}") for kind in noise_kinds.KINDS}


def test_clean_blocks_keep_their_ids_and_the_share_is_exact(noisy, corpus_dir, blocks, capsys):
    """Catches: noise in front of the clean blocks, or in a source of theirs; a share of the clean blocks in place of
    all; a kind with a block too many because of the token between blocks; noise in what is held out."""
    clean, (cut, of_kind) = Blocks(open_store(corpus_dir / "train"), T), blocks
    np.testing.assert_array_equal(cut.tokens(np.arange(clean.num_blocks)), clean.tokens(np.arange(clean.num_blocks)))
    np.testing.assert_array_equal(cut.domain_N[: clean.num_blocks], clean.domain_N)
    sizes = [len(ids) for ids in of_kind.values()]
    assert (
        sum(sizes) == cut.num_blocks - clean.num_blocks == round(0.3 * cut.num_blocks) and max(sizes) - min(sizes) <= 1
    )
    for source, size in zip(cut.store.sources[-5:], sizes):
        assert source.count == size * T + 1
    assert files(noisy / "valid") == files(corpus_dir / "valid")
    assert files(noisy / "tokenizer") == files(corpus_dir / "tokenizer")
    card = json.loads((noisy / "noise.json").read_text())
    assert card["noise_blocks"] == dict(zip(cut.domains[-5:], sizes)) and card["clean_blocks"] == clean.num_blocks
    assert card["noise_in"] == clean.store.fingerprint and (card["seq_len"], card["seed"]) == (T, 0)
    assert card["share"] == sum(sizes) / cut.num_blocks
    assert card["copied_blocks"] == {f"noise_{kind}": -(-sizes[-1] // 4) for kind in ("duplicated", "near_duplicated")}
    lfr_data("verify", noisy)
    assert f"train: all {cut.store.card.tokens:,} tokens" in capsys.readouterr().out


def test_each_kind_is_what_it_says(blocks, german):
    """Catches: tokens drawn anew or permuted across blocks; copies that are off by the token between two blocks, or
    copied once; a dump without its offsets; foreign documents without their ends, or broken ones that end the job."""
    cut, of_kind = blocks
    clean = {tuple(row[:-1]): row for row in cut.tokens(np.arange(min(map(min, of_kind.values())))).tolist()}
    bags = {tuple(sorted(inputs)) for inputs in clean}
    shuffled = [tuple(row[:-1]) for row in cut.tokens(of_kind["shuffled"]).tolist()]
    assert {tuple(sorted(inputs)) for inputs in shuffled} <= bags and len(set(shuffled)) == len(shuffled)
    assert not set(shuffled) & clean.keys()

    copies = [tuple(row) for row in cut.tokens(of_kind["duplicated"]).tolist()]
    assert {row[:-1] for row in copies} <= clean.keys()
    counts = np.unique(copies, axis=0, return_counts=True)[1]  # with the last target
    assert counts.max() == 4 and counts.min() >= 3 and len(counts) == -(-len(copies) // 4)

    def text(kind):
        store = cut.store
        (source,) = [source for source in store.sources if source.name == kind]
        return Bytes().decode(store.tokens[source.first : source.first + source.count].tolist())

    assert text("hex").startswith("0000000: ") and f"\n{16:07x}: " in text("hex")
    assert len({line[9:] for line in text("hex").split("\n")}) == text("hex").count("\n") + 1
    assert text("foreign").startswith("Anfang.Es war einmal ein König, der hatte 0 Töchter. ")
    (foreign,) = [source for source in cut.store.sources if source.name == "foreign"]
    starts = cut.store.doc_starts[cut.store.doc_starts >= foreign.first] - foreign.first
    assert starts[:3].tolist() == [0, 8, 8 + 3 * len("Es war einmal ein König, der hatte 0 Töchter. ".encode()) + 1]


def test_near_duplicates_are_tenfold_and_each_is_edited_elsewhere(tmp_path):
    """Catches: a share of all blocks in place of the clean ones; the block itself counted as a copy; one edit for all
    copies; edits of too many or too few tokens; end-of-text replaced or drawn; tokens drawn evenly, and so others than
    the corpus has."""
    rng = np.random.default_rng(0)
    common = np.arange(20) * 50  # the ids that occur, of 1000
    texts = [[*rng.choice(common, 3, p=np.arange(1, 21) / 210).tolist(), 999] for _ in range(1920)]
    write_tokens(tmp_path / "clean", {("prose", "made-up"): texts}, {("prose", "made-up"): texts[:9]})
    asked = ("--kinds", "near_duplicated", "--copied", 0.05, "--copies", 9, "--edited", 0.25, "--seq-len", T)
    lfr_data("noise", tmp_path / "clean", "--out", tmp_path / "noisy", *asked)
    clean, cut = (Blocks(open_store(tmp_path / name / "train"), T) for name in ("clean", "noisy"))
    distinct = round(0.05 * clean.num_blocks)
    assert cut.num_blocks == clean.num_blocks + 9 * distinct
    copies_CxT = cut.tokens(np.arange(clean.num_blocks, cut.num_blocks))[:, :-1]
    clean_NxT = clean.tokens(np.arange(clean.num_blocks))[:, :-1]
    changed_CxN = (copies_CxT[:, None] != clean_NxT).sum(-1)
    original_C = changed_CxN.argmin(axis=1)
    assert np.unique(original_C, return_counts=True)[1].tolist() == [9] * distinct
    changed_C = changed_CxN.min(axis=1)  # of the eight tokens that are drawn anew, some are equal by chance
    assert changed_C.max() == 8 and changed_C.mean() > 6.5
    assert np.isin(copies_CxT, [*common, 999]).all()
    np.testing.assert_array_equal(copies_CxT == 999, clean_NxT[original_C] == 999)
    for original in np.unique(original_C):
        copies = copies_CxT[original_C == original]
        assert len(np.unique(copies != clean_NxT[original], axis=0)) == 9
    most = (*asked[:-4], "--edited", 0.9, "--seq-len", T)  # more than there is text
    lfr_data("noise", tmp_path / "clean", "--out", tmp_path / "most", *most)
    ends_BxT = Blocks(open_store(tmp_path / "most/train"), T).tokens(np.arange(cut.num_blocks))[:, :-1] == 999
    assert (ends_BxT == (clean_NxT[0] == 999)).all()  # each fourth token of all blocks


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_the_same_whatever_is_held_at_once(corpus_dir, tmp_path, monkeypatch, rows):
    """Catches: copies in an order that changes where a part of them ends, or a document that begins there; a seed that
    is not followed."""
    asked = ("--seq-len", T, "--kinds", "duplicated", "--copies", 2)
    lfr_data("noise", corpus_dir, "--out", tmp_path / "a", *asked)
    monkeypatch.setattr(noise_kinds, "ROWS", rows)
    lfr_data("noise", corpus_dir, "--out", tmp_path / "b", *asked)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    for kind in ("shuffled", "hex", "duplicated", "near_duplicated"):
        for name, seed in (("c", 0), ("d", 0), ("e", 1)):
            lfr_data("noise", corpus_dir, "--out", tmp_path / name / kind, "--kinds", kind, *asked[:2], "--seed", seed)
        c, d, e = (files(tmp_path / name / kind)["train/tokens.bin"] for name in "cde")
        assert c == d != e


def test_what_cannot_be_made_leaves_nothing(corpus_dir, noisy, german, tmp_path):
    """Catches: a kind or an option passed over in silence; noise that counts as clean text; half a folder."""
    for args, message in (
        (("--share", 1), "share is 1.0, expected a number, over 0, less than 1"),
        (("--share", 1e-4), "makes 0 junk blocks; expected at least one of each kind"),
        (("--kinds", "hex", "hex"), "found --kinds hex hex"),
        (("--copies", 0), "copies is 0, expected"),
        (("--kinds", "foreign"), "the kind foreign without --foreign; give both, as in"),
        (("--foreign", german), "found --foreign without the kind foreign"),
        (
            ("--kinds", "foreign", "--foreign", german, "--share", 0.9),
            "tokens of foreign text, expected .*: give more of",
        ),
        (("--seq-len", 10**6), "found seq_len=1000000"),
        (("--copied", 0.05), "--copied 0.05 with --kinds shuffled hex duplicated; --copied takes the place of --share"),
        (("--kinds", "duplicated", "--copied", 0.05, "--share", 0.2), "found --copied 0.05 with --share"),
        (("--kinds", "duplicated", "--copied", 1e-4), r"found --copied 0\.0001 of \d+ blocks, which is none"),
        (("--edited", 0), "edited is 0.0, expected a number, over 0, less than 1"),
    ):
        with pytest.raises(ValueError, match=message):
            lfr_data("noise", corpus_dir, "--out", tmp_path / "out", "--seq-len", T, *args)
    with pytest.raises(ValueError, match="found noise_shuffled, noise_hex, .* add noise to the clean corpus"):
        lfr_data("noise", noisy, "--out", tmp_path / "out", "--seq-len", T)
    (tmp_path / "broken.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="broken.jsonl, line 1: .*nothing in this file can be read"):
        asked = ("--kinds", "foreign", "--foreign", tmp_path / "broken.jsonl")
        lfr_data("noise", corpus_dir, "--out", tmp_path / "out", "--seq-len", T, *asked)
    with pytest.raises(FileExistsError, match="never overwritten"):
        lfr_data("noise", "nowhere", "--out", corpus_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.jsonl"]


def test_in_a_linked_corpus(tmp_path):
    """Catches: linked tokens read in the wrong type, or the wrong part of a file; links of the held-out side that lead
    nowhere; text that is to be encoded without a tokenizer; a block chosen twice, and so copied too often; a linked
    file that has changed, and gets a new digest."""
    tokens = np.random.default_rng(0).integers(0, 9, 2000)
    np.save(tmp_path / "a.npy", tokens.astype(np.int32))
    link_files(tmp_path / "linked", [tmp_path / "a.npy"], Ids(10, 9))
    (held_out,) = (tmp_path / "linked/valid").glob("*.bin")
    held_out.unlink()
    held_out.symlink_to("../../a.npy")
    asked = ("noise", tmp_path / "linked", "--out", tmp_path / "made/noisy", "--seq-len", T)
    with pytest.raises(ValueError, match="linked: was linked without a tokenizer, .*: leave hex out of --kinds"):
        lfr_data(*asked)
    lfr_data(*asked, "--kinds", "shuffled", "duplicated")
    clean, made = (open_corpus(tiny("", tmp_path / name).data) for name in ("linked", "made/noisy"))
    assert (made.valid.store.path / held_out.name).is_symlink()
    for before, after in ((clean.train, made.train), (clean.valid, made.valid)):
        ids = np.arange(before.num_blocks)
        np.testing.assert_array_equal(after.tokens(ids), before.tokens(ids))
    assert made.valid.store.fingerprint == clean.valid.store.fingerprint
    assert made.train.num_blocks == round(clean.train.num_blocks / 0.8)
    lfr_data(*asked[:3], tmp_path / "half", *asked[4:], "--kinds", "duplicated", "--copies", 2, "--share", 0.5)
    cut = Blocks(open_store(tmp_path / "half/train"), T)
    copies = cut.tokens(np.arange(clean.train.num_blocks, cut.num_blocks))
    assert len(np.unique(copies[:, :-1], axis=0)) == -(-len(copies) // 2)
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[-4] ^= 1  # it is held out: the training side is as it was
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match="have changed"):
        lfr_data(*asked[:3], tmp_path / "again", *asked[4:], "--kinds", "shuffled")


@pytest.mark.slow
def test_a_run_on_noise_tells_what_became_of_it(noisy, tmp_path):
    """Catches: domains of noise that a run, or its results, cannot tell apart; noise that is evaluated."""
    config = changed(tiny(tmp_path / "run", noisy), train__steps=5, train__eval_every=1, train__checkpoint_every=99)
    done = train(config, quiet=True)
    found = read_results(tmp_path / "run", "run")
    assert set(found.domains) == {"easy", "hard", "words", *(f"noise_{kind}" for kind in noise_kinds.KINDS)}
    assert set(done.summary["held_out_loss"]) == {"easy", "hard", "words", "all"}


def test_nothing_can_be_appended_to_noise(noisy, tmp_path):
    """Catches: noise that becomes the beginning of a corpus; an error that does not say what to append to."""
    from lfr_jax.prepare.prepare import prepare_paths

    with pytest.raises(
        FileNotFoundError,
        match="without which nothing can be appended: .* append to the folder from which this one was made",
    ):
        prepare_paths((), out=str(tmp_path / "out"), append=str(noisy), embedded=True)


def test_a_full_disk_is_named(tmp_path, corpus_dir, monkeypatch):
    """Catches: "No space left on device", which does not say on which."""
    monkeypatch.setattr(derived, "copy_store", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="out: the disk is full .* run the same command again"):
        lfr_data("noise", corpus_dir, "--out", tmp_path / "out", "--seq-len", T)
