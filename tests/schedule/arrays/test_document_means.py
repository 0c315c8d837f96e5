"""Documents as units, where blocks and documents do not nest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule

# Block 0: a long part of document 0, and document 2. Block 1: the rest of 0, all of 3. Block 3: part of 4. Nobody has
# block 2 and document 1.
PARTS = ([0, 0, 1, 1, 3], [2, 0, 0, 3, 4], [1, 7, 5, 3, 8])
INFO = schedule.BlockInfo(4, documents=PARTS)
LOSSES = jnp.array([2.0, 6.0, 9.0, 4.0])


def test_by_hand():
    """Catches: means that count each part once; parts taken to be sorted by document; 0 where nothing is known."""
    documents = schedule.documents_of(INFO, "mine")
    loss_D = schedule.document_means(LOSSES, documents)
    np.testing.assert_allclose(loss_D, [(7 * 2 + 5 * 6) / 12, np.nan, 2, 6, 4], rtol=1e-6)
    back_N = schedule.block_means(loss_D, documents)
    np.testing.assert_allclose(back_N, [(2 + 7 * 44 / 12) / 8, (5 * 44 / 12 + 3 * 6) / 8, np.nan, 4], rtol=1e-6)


def test_what_is_not_known_is_left_out():
    """Catches: NaN that spreads to all documents of a block; infinity in a mean; a part counted without its number."""
    documents = schedule.documents_of(INFO, "mine")
    loss_D = schedule.document_means(LOSSES.at[0].set(jnp.nan).at[3].set(jnp.inf), documents)
    np.testing.assert_array_equal(loss_D, np.float32([6, np.nan, np.nan, 6, np.nan]))
    np.testing.assert_array_equal(schedule.block_means(loss_D, documents), np.float32([6, 6, np.nan, np.nan]))


def test_against_numpy():
    """Catches: a run of parts merged with the next one; weights of another part; Python control flow on values."""
    rng = np.random.default_rng(0)
    block_M = np.sort(rng.integers(0, 200, 900))
    document_M, tokens_M, x_N = rng.integers(0, 300, 900), rng.integers(1, 99, 900), rng.normal(size=200)
    info = schedule.BlockInfo(200, documents=(block_M, document_M, tokens_M))
    documents = schedule.documents_of(info, "mine")
    found_D = schedule.document_means(jnp.float32(x_N), documents)
    with np.errstate(invalid="ignore"):
        wanted_D = np.bincount(document_M, tokens_M * x_N[block_M]) / np.bincount(document_M, tokens_M)
    np.testing.assert_allclose(found_D, wanted_D, rtol=1e-4, atol=1e-6)
    jitted = jax.jit(lambda x_N: schedule.document_means(x_N, documents))(jnp.float32(x_N))
    np.testing.assert_allclose(jitted, found_D, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "parts, error",
    [
        (None, "mine needs BlockInfo.documents, the parts of documents that blocks have; found None"),
        (([1, 0], [0, 1], [1, 1]), "the blocks are not sorted"),
        (([0, 4], [0, 1], [1, 1]), "the blocks are not sorted, or one is not from 0 to 3"),
        (([0, 1], [0, -1], [1, 1]), "the documents are not sorted, or one is not"),
        (([0, 1], [0, 1], [1, 0]), "a part of 0 tokens, expected 1 or more"),
        (([0, 1], [0], [1, 1]), "has 2 blocks, 1 documents and 2 numbers of tokens"),
    ],
)
def test_what_does_not_fit_is_refused(parts, error):
    """Catches: parts in another order, whose means would be those of other blocks."""
    with pytest.raises(ValueError, match=error):
        schedule.documents_of(schedule.BlockInfo(4, documents=parts), "mine")


def test_a_policy_whose_unit_is_the_document():
    """Under jit and within groups. Catches: documents lost on the way to a choice, or numbered as in the corpus within
    a group."""

    def choose(loss_N, info):
        of_documents_D = schedule.document_means(loss_N, info["documents"])
        return jnp.nan_to_num(schedule.block_means(of_documents_D, info["documents"]))

    s = schedule.scored(schedule.uniform().phases, (choose,), needs=("documents",), dtype=jnp.float32)

    def rates(s, info):
        state = s.observe(s.init(info), jnp.arange(4), LOSSES, 0)
        return s.rates(jax.jit(s.begin)(state, 0))

    np.testing.assert_allclose(rates(s, INFO), [(2 + 7 * 44 / 12) / 8, (5 * 44 / 12 + 18) / 8, 0, 4], rtol=1e-6)
    apart = rates(schedule.stratified(s), INFO._replace(domain=[1, 0, 0, 1]))
    np.testing.assert_allclose(apart, [2 / 3, 2, 0, 4 / 3], rtol=1e-6)  # block 0: of its own parts alone
