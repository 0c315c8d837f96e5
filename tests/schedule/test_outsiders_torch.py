"""Somebody's torch trainer: the schedule chooses what its `DataLoader` reads, and gets the losses back."""

import jax
import numpy as np
import pytest
from outsiders import BATCH, BLOCKS, LENGTHS, VOCAB, check, recipe

from lfr_jax import schedule

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'lfr_jax[parity]'")

sched = schedule.lfr(**LENGTHS, scores="train")
schedule.check_trainer(sched, observes_training=True)
observe = jax.jit(sched.observe, donate_argnums=0)
DrawnBatches = recipe("torch")["DrawnBatches"]


class Blocks(torch.utils.data.Dataset):
    def __len__(self):
        return len(BLOCKS)

    def __getitem__(self, index):
        return index, BLOCKS[index].astype(np.int64)


def train(folder, stop=None):
    model = torch.nn.Embedding(VOCAB, VOCAB)  # the logits of the next token
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    chosen, first, drawn = sched.init(schedule.BlockInfo(num_blocks=len(BLOCKS))), 0, []
    folder.mkdir(exist_ok=True)
    if (folder / "saved.pt").exists():
        saved = torch.load(folder / "saved.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        leaves = [np.asarray(leaf) for leaf in saved["chosen"]]
        chosen, first = jax.tree.unflatten(jax.tree.structure(chosen), leaves), saved["step"]
    for index, phase in enumerate(sched.phases):
        if first >= phase.stop:
            continue
        if first <= phase.start:
            chosen = sched.begin(chosen, index)
        draws = schedule.plan(sched.rates(chosen), (phase.stop - phase.start) * BATCH, seed=0, phase=index)
        begun = max(first - phase.start, 0)
        batches = torch.utils.data.DataLoader(Blocks(), batch_sampler=DrawnBatches(draws, BATCH, begun))
        assert len(batches) == phase.stop - phase.start - begun
        for step, (ids, tokens) in enumerate(batches, start=phase.start + begun):
            logits = model(tokens[:, :-1]).transpose(1, 2)
            losses = torch.nn.functional.cross_entropy(logits, tokens[:, 1:], reduction="none").mean(1)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            chosen = observe(chosen, ids.numpy(), losses.detach().numpy(), step)
            drawn.append((phase.name, ids))
            if step + 1 == stop:
                saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": stop}
                saved["chosen"] = [torch.from_numpy(np.array(leaf)) for leaf in jax.tree.leaves(chosen)]
                torch.save(saved, folder / "saved.pt")
                return None, drawn
    return (model.weight.detach().numpy(), chosen), drawn


def test_a_torch_trainer_chooses_and_resumes(tmp_path):
    """Catches: ids that a `DataLoader` does not take; a state that does not survive as numbers without JAX."""
    check(train, tmp_path, 20, 24)


def test_ranks_share_the_batches_of_a_phase():
    """Catches: rows that no rank has, or two; batches of different lengths."""
    draws = schedule.plan(np.arange(64.0), 6 * BATCH, seed=0, phase=1)
    parts = [list(DrawnBatches(draws, BATCH, 2, rank, 4)) for rank in range(4)]
    assert all(len(rows) == 2 for rank in parts for rows in rank)
    assert [sorted(sum(rows, [])) for rows in zip(*parts, strict=True)] == np.sort(
        draws[2 * BATCH :].reshape(4, BATCH)
    ).tolist()


def test_a_drawn_source_is_a_map_style_data_set():
    """Catches: an item that torch cannot put into a batch."""
    draws = schedule.plan(np.ones(64), 4 * BATCH, seed=0, phase=0)
    loader = torch.utils.data.DataLoader(schedule.DrawnSource(BLOCKS, draws), batch_size=BATCH)
    ids, tokens = next(iter(loader))
    assert ids.tolist() == draws[:BATCH].tolist() and tokens.numpy().tolist() == BLOCKS[draws[:BATCH]].tolist()
