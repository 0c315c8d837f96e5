"""What is read back of a run, finished or not."""

import numpy as np
import pytest
from made_runs import STEPS, blocks, domain_of, kept, make_run, probe_loss, tokens_of

from lfr_jax.experiments.results import check_same_probes, read_results, split_by_phase
from lfr_jax.schedule import Phase


def test_a_run_is_read_back(tmp_path):
    """Catches: blocks and measurements exchanged; the untrained model's losses kept; rates of another phase; FLOPs of
    the step before or after; tokens of other blocks."""
    run = read_results(make_run(tmp_path / "run", store="abc"), "mine")
    assert (run.name, run.measured_on, run.domains) == ("mine", ("abc", 32, "concatenate"), ["code", "prose", "tables"])
    assert run.block_N.tolist() == blocks() and run.domain_N.tolist() == [domain_of(block) for block in blocks()]
    assert run.step_M.tolist() == list(STEPS)[1:]
    assert run.tokens_N.tolist() == [tokens_of(block) for block in blocks()]
    assert run.loss_NxM.tolist() == [[probe_loss("lfr", block, step) for step in STEPS if step] for block in blocks()]
    assert run.phases == tuple(
        Phase(*p) for p in [("learn", 0, 8), ("focus", 8, 12), ("review", 12, 16), ("focus2", 16, 20)]
    )
    assert run.rate_NxP.tolist() == [[2.0 * kept("lfr", phase.name, b) for phase in run.phases] for b in blocks()]
    assert [run.flops[step] for step in (0, 1, 8, 20)] == [0, 100, 800, 2000]


def test_a_run_that_is_still_going(tmp_path):
    """Catches: half a line read as a whole number; a step kept that some blocks still lack; a need for a checkpoint."""
    folder = make_run(tmp_path / "run", stop=14)
    with open(folder / "scores" / "probes.csv", "a", newline="") as file:
        file.writelines(f"16,review,{block},{domain_of(block)},1.5,8\n" for block in blocks()[:-1])
        file.write(f"16,review,{blocks()[-1]},tables,1.")
    run = read_results(folder, "lfr")
    assert run.step_M.tolist() == [2, 4, 6, 8, 10, 12, 14] and run.loss_NxM.shape == (12, 7)
    assert [phase.name for phase in run.phases] == ["learn", "focus", "review"]
    assert run.measured_on == ("", 32, "concatenate")


def test_probes_without_losses_are_left_out(tmp_path):
    """Catches: a NaN that reaches the classes; another block left out in its place."""
    folder = make_run(tmp_path / "run")
    path = folder / "scores" / "probes.csv"
    path.write_text(path.read_text().replace(f"\n6,,10,prose,{probe_loss('lfr', 10, 6)},", "\n6,,10,prose,nan,"))
    run = read_results(folder, "lfr")
    assert run.block_N.tolist() == [block for block in blocks() if block != 10]
    assert (
        len(run.domain_N) == len(run.rate_NxP) == len(run.tokens_N) == len(run.loss_NxM) == 11
        and np.isfinite(run.loss_NxM).all()
    )
    path.write_text("step,phase,block,domain,loss\n" + "".join(f"{step},,1,a,nan\n" for step in range(1, 6)))
    with pytest.raises(ValueError, match="no probe has finite losses"):
        read_results(folder, "lfr")


@pytest.mark.parametrize(
    "table, old, new, message",
    [
        ("scores/probes.csv", "step,", "steps,", "row 1: step is None, expected a whole number"),
        ("scores/probes.csv", "\n4,", "\nfour,", "row 25: step is 'four', expected a whole number"),
        ("scores/rates.csv", ",stop", ",end", "row 1: stop is None, expected a whole number"),
        ("metrics.csv", ",flops", ",cost", "row 1: flops is None, expected a number"),
    ],
)
def test_a_table_that_was_changed_is_named(tmp_path, table, old, new, message):
    """Catches: a KeyError, or a number that cannot be read, without the file and the row."""
    path = make_run(tmp_path / "run") / table
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=f"{table}, {message}"):
        read_results(tmp_path / "run", "lfr")


def test_probes_count_by_their_tokens(tmp_path):
    """Catches: a mean over blocks, whatever their lengths; tokens of the blocks that are not asked for. Older releases
    wrote down no tokens: there blocks count alike."""
    run = read_results(make_run(tmp_path / "run"), "lfr")
    run = run._replace(loss_NxM=np.arange(12.0)[:, None] * [1, 2], tokens_N=np.array([1.0, 3, 0, 4] * 3))
    assert run.mean_loss(np.isin(np.arange(12), [1, 3])).tolist() == [(3 * 1 + 4 * 3) / 7, 2 * (3 * 1 + 4 * 3) / 7]
    path = tmp_path / "run" / "scores" / "probes.csv"
    path.write_text("".join(line.rsplit(",", 1)[0] + "\n" for line in path.read_text().splitlines()))
    assert read_results(tmp_path / "run", "lfr").tokens_N.tolist() == [1] * 12


def test_runs_without_trajectories_say_what_to_set(tmp_path):
    """Catches: a run without probes, or with too few measurements, that fails elsewhere; a hint that names another
    setting; one measurement too many asked for."""
    with pytest.raises(ValueError, match=r"has no probes.*train.probe_blocks=0"):
        read_results(make_run(tmp_path / "none", probes=False), "lfr")
    with pytest.raises(ValueError, match=r"3 times.*at least 4.*train.eval_every=2"):
        read_results(make_run(tmp_path / "few", stop=6), "lfr")
    assert read_results(make_run(tmp_path / "enough", stop=8), "lfr").loss_NxM.shape == (12, 4)
    with pytest.raises(FileNotFoundError, match="no run in"):
        read_results(tmp_path / "absent", "lfr")


def test_runs_on_other_blocks_are_refused(tmp_path):
    """Catches: stores, lengths, packings or blocks not looked at; runs refused of which one has no checkpoint yet."""
    run = read_results(make_run(tmp_path / "run", store="abc"), "lfr")
    check_same_probes([run])
    check_same_probes([run, run._replace(measured_on=("", 32, "concatenate"), name="early"), run])
    for change in (
        dict(measured_on=("abd", 32, "concatenate")),
        dict(measured_on=("abc", 64, "concatenate")),
        dict(measured_on=("abc", 32, "best_fit")),
        dict(block_N=run.block_N + 1),
        dict(block_N=run.block_N[1:]),
    ):
        with pytest.raises(ValueError, match=r"lfr 12 blocks of 32 tokens \(concatenate\) from the store abc; other "):
            check_same_probes([run, run._replace(name="other", **change)])


def test_blocks_are_divided_by_a_phase(tmp_path):
    """Catches: Focus 2 in place of Focus; blocks called restored that no later phase draws; a phase of another run."""
    run = read_results(make_run(tmp_path / "lfr"), "lfr")
    uniform = read_results(make_run(tmp_path / "uniform", "uniform"), "uniform")
    tables = run.domain_N == "tables"
    focus = split_by_phase([uniform, run])
    assert (focus.run.name, focus.phase.name) == ("lfr", "focus")
    assert focus.restored_N.tolist() == (tables | (run.block_N == 10)).tolist() == (~focus.kept_N).tolist()
    last = split_by_phase([run, uniform], "focus2")
    assert last.kept_N.tolist() == (~tables).tolist() and not last.restored_N.any()
    assert split_by_phase([run], "review") is None and split_by_phase([uniform]) is None
    with pytest.raises(ValueError, match="'focu'; did you mean 'focus'.*learn, focus, review, focus2, uniform"):
        split_by_phase([run, uniform], "focu")
