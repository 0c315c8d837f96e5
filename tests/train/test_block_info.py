"""What a schedule is told of the blocks: from the settings when a run begins, from its folder ever after."""

import dataclasses

import hostile
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from helpers import tiny

from lfr_jax import schedule
from lfr_jax.config import ScheduleConfig
from lfr_jax.data import clusters, score_files
from lfr_jax.data.blocks import Blocks
from lfr_jax.data.store import open_store
from lfr_jax.train import block_info, policy


@pytest.fixture(scope="module")
def blocks(corpus_dir):
    return Blocks(open_store(corpus_dir / "train"), 32)


@pytest.fixture
def asking(tmp_path, corpus_dir, blocks):
    """A configuration that asks for clusters and all three references; their losses are i, 2 i and 3 i."""
    config = tiny(tmp_path / "run", corpus_dir)
    files = {}
    for factor, name in enumerate(("ref_scores", "weak_scores", "strong_scores"), start=1):
        rows = [f"{i},easy,{factor * i}\n" for i in range(blocks.num_blocks)]
        path = tmp_path / f"{name}.csv"
        path.write_text("".join([score_files.origin(blocks, 1), "block,domain,loss\n", *rows]))
        files[name] = str(path)
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, clusters=3, **files))


def known(config, blocks, tmp_path):
    return block_info.load_or_compute(tmp_path / "run", config, blocks)


def test_the_settings_fill_it_in(tmp_path, asking, blocks):
    """Catches: a file under another's name; clusters of another number or seed; an array that nobody asked for."""
    info = known(asking, blocks, tmp_path)
    for factor, found in enumerate((info.ref_loss, info.weak_loss, info.strong_loss), start=1):
        np.testing.assert_array_equal(found, factor * np.arange(blocks.num_blocks))
    np.testing.assert_array_equal(info.cluster, clusters.cluster_blocks(blocks, 3, asking.train.seed))
    np.testing.assert_array_equal(info.domain, blocks.domain_N)
    plain = known(tiny(tmp_path / "run", asking.data.store), blocks, tmp_path)
    assert (plain.cluster, plain.length, plain.columns) == (None, None, {}) and plain.num_blocks == blocks.num_blocks


def test_a_run_goes_on_as_it_began(tmp_path, asking, blocks):
    """Catches: reading changed files, or clustering anew, once a checkpoint depends on what was known before it."""
    run = tmp_path / "run"
    run.mkdir()
    block_info.save(
        run, known(asking, blocks, tmp_path)._replace(cluster=np.zeros(blocks.num_blocks, np.int32)), blocks
    )
    (tmp_path / "weak_scores.csv").unlink()
    with pytest.raises(FileNotFoundError):  # no checkpoint yet: the settings count
        known(asking, blocks, tmp_path)
    (run / "checkpoints" / "4").mkdir(parents=True)
    info = known(asking, blocks, tmp_path)
    np.testing.assert_array_equal(info.weak_loss, 2 * np.arange(blocks.num_blocks))
    assert not info.cluster.any() and info.cluster.dtype == np.int32
    assert sorted(path.name for path in run.iterdir()) == ["block_info.npz", "checkpoints"]


def test_only_a_run_without_a_checkpoint_is_told_anew(tmp_path, asking, blocks):
    """Catches: what an earlier try left behind taken for the run's own; a checkpoint's own replaced."""
    run, plain = tmp_path / "run", tiny(tmp_path / "run", asking.data.store)
    run.mkdir()
    block_info.save(run, known(asking, blocks, tmp_path), blocks)
    block_info.save(run, known(plain, blocks, tmp_path), blocks)
    (run / "checkpoints" / "4").mkdir(parents=True)
    told = known(asking, blocks, tmp_path)
    assert told.cluster is None and not told.columns
    block_info.save(run, known(asking, blocks, tmp_path)._replace(cluster=blocks.domain_N), blocks)
    assert known(asking, blocks, tmp_path).cluster is None


@pytest.fixture
def begun(tmp_path, asking, blocks):
    """The folder of a run that has a checkpoint, and was told clusters and three losses."""
    (tmp_path / "run/checkpoints/4").mkdir(parents=True)
    block_info.save(tmp_path / "run", block_info.info_of(blocks, **block_info.compute(asking, blocks)), blocks)
    return tmp_path / "run"


def test_what_a_checkpoint_depends_on_may_not_be_missing(tmp_path, begun, asking, blocks):
    """Catches: other losses read anew in the middle of a run; a run that was told nothing, ended for a file."""
    (begun / block_info.FILE).unlink()
    with pytest.raises(FileNotFoundError, match="run/block_info.npz: is not there, and the checkpoints"):
        known(asking, blocks, tmp_path)
    assert not known(tiny(begun, asking.data.store), blocks, tmp_path).columns


def test_what_is_of_other_blocks_is_refused(begun, corpus_dir, blocks):
    """Catches: clusters of another store, or of blocks that were cut in another way, if there are as many."""
    for other in (Blocks(open_store(corpus_dir / "valid"), 8), Blocks(blocks.store, 31)):
        other.num_blocks = blocks.num_blocks
        with pytest.raises(ValueError, match="block_info.npz: is about the blocks 'store .* expected"):
            block_info.load(begun, other)
    cluster = np.full(blocks.num_blocks, blocks.num_blocks, np.int32)
    np.savez(begun / block_info.FILE, cluster=cluster)
    with pytest.raises(ValueError, match="block_info.npz: found clusters from .* to"):
        block_info.load(begun, blocks)
    np.savez(begun / block_info.FILE, cluster=cluster[1:])
    with pytest.raises(ValueError, match="block_info.npz: cluster: found an array of type <i4 and shape"):
        block_info.load(begun, blocks)


def test_a_file_of_an_older_release_is_read(begun, blocks):
    """Catches: a run of an older release, which did not write down whose blocks they are, that cannot go on."""
    np.savez(begun / block_info.FILE, cluster=np.zeros(blocks.num_blocks, np.int32))
    assert not block_info.load(begun, blocks).cluster.any()


def test_columns_go_on_as_they_began(tmp_path, asking, blocks):
    """Catches: a column that is not saved, or under another name or type; a file that is read again; a column that is
    named twice, or like something else."""
    run, quality, topic = tmp_path / "run", tmp_path / "quality.csv", tmp_path / "topic.csv"
    run.mkdir()
    quality.write_text("block,x\n" + "".join(f"{i},{i / 4}\n" for i in range(blocks.num_blocks)))
    topic.write_text("block,topic\n" + "".join(f"{i},{i % 3}\n" for i in range(blocks.num_blocks)))
    named = dataclasses.replace(asking.schedule, columns=(f"quality={quality}", f"topic={topic}"))
    config = dataclasses.replace(asking, schedule=named)
    block_info.save(run, known(config, blocks, tmp_path), blocks)
    quality.unlink()
    (run / "checkpoints" / "4").mkdir(parents=True)
    columns = known(config, blocks, tmp_path).columns
    assert sorted(columns) == ["quality", "ref_loss", "strong_loss", "topic", "weak_loss"]
    assert columns["quality"].dtype == np.float32 and columns["topic"].dtype == np.int32
    np.testing.assert_array_equal(columns["quality"], np.arange(blocks.num_blocks) / 4)
    for name, error in (("ref_loss", "for 'ref_loss', and so does --schedule.ref-scores"), ("domain", "has 'domain'")):
        columns = dataclasses.replace(asking.schedule, columns=(f"{name}={topic}",))
        with pytest.raises(ValueError, match=error):
            block_info.info_of(blocks, **block_info.compute(dataclasses.replace(asking, schedule=columns), blocks))
    for words in (("quality",), ("=a.csv",), ("a b=c.csv",), ("quality=",), ("a=b", "a=c")):
        with pytest.raises(ValueError, match="schedule.columns has .*, expected NAME=FILE, each name once"):
            dataclasses.replace(asking.schedule, columns=words)


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(data=st.data())
def test_any_bytes_give_arrays_or_an_error(edited, blocks, data):
    """Catches: any exception but ours."""
    folder, raw = edited
    (folder / block_info.FILE).write_bytes(data.draw(hostile.edited_bytes(raw)))
    try:
        schedule.num_blocks(block_info.load(folder, blocks))
    except ValueError as error:
        assert "block_info.npz" in str(error) and len(str(error)) < 700


@pytest.fixture(scope="module")
def edited(tmp_path_factory, blocks):
    """A folder, and the bytes of a sound file."""
    folder = tmp_path_factory.mktemp("run")
    told = dict(cluster=blocks.domain_N, ref_loss=np.ones(blocks.num_blocks, np.float32), topic=blocks.domain_N)
    info = block_info.info_of(blocks, **told)
    block_info.save(folder, info, blocks)
    return folder, (folder / block_info.FILE).read_bytes()


def test_two_files_of_scores_decide_before_the_run_begins(asking, blocks):
    """The losses are 2 i and 3 i, so that the first blocks differ least. Catches: score files that are no columns; the
    difference turned round; domains that compete, so that the one of the first ids gets all draws."""
    weak, strong = asking.schedule.weak_scores, asking.schedule.strong_scores

    def drawn(column, minus, **files):
        options = dict(column=column, minus=minus, keep=0.5)
        chosen = ScheduleConfig("ranked", options, stratify="domain", **files)
        config = dataclasses.replace(asking, schedule=chosen)
        sched, info = policy.build(chosen, 10), block_info.info_of(blocks, **block_info.compute(config, blocks))
        return np.asarray(sched.rates(sched.begin(sched.init(info), 0))) > 0

    drawn_N = drawn("prior", "target", columns=(f"prior={weak}", f"target={strong}"))
    for domain in np.unique(blocks.domain_N):
        of_domain = drawn_N[blocks.domain_N == domain]
        assert of_domain.tolist() == sorted(of_domain, reverse=True) and of_domain.sum() == -(-len(of_domain) // 2)
    np.testing.assert_array_equal(drawn("weak_loss", "strong_loss", weak_scores=weak, strong_scores=strong), drawn_N)


@pytest.mark.parametrize(
    "name, setting",
    [
        ("ref_loss", "--schedule.ref-scores FILE"),
        ("weak_loss", "--schedule.weak-scores FILE"),
        ("strong_loss", "--schedule.strong-scores FILE"),
        ("cluster", "--schedule.clusters 64"),
        ("length", "--data.packing by_length"),
        ("quality", "--schedule.columns quality=FILE"),
    ],
)
def test_what_a_policy_lacks_comes_with_the_setting(blocks, name, setting):
    """Catches: an error that names a field of the library and leaves the reader to find the option."""
    picky = schedule.scored(schedule.uniform(4).phases, (None,), needs=(name,), policy="picky")
    info = schedule.BlockInfo(blocks.num_blocks, domain=blocks.domain_N)
    with pytest.raises(ValueError, match=f"picky needs BlockInfo.*{name}.*, one number for each block; .*: {setting}"):
        block_info.check(picky, info)
    given = {name: blocks.domain_N} if name in info._fields else {"columns": {name: blocks.domain_N}}
    block_info.check(picky, info._replace(**given))


def test_checking_allocates_nothing(blocks):
    """Catches: a state built twice, which at 10**8 blocks is gigabytes."""
    made = []
    sched = schedule.lfr(reps=1)
    init = lambda info: (made.append(sched.init(info)), made[0])[1]  # noqa: E731
    block_info.check(sched._replace(init=init), schedule.BlockInfo(blocks.num_blocks))
    assert all(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(made[0].measured))
