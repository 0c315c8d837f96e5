"""Random numbers by purpose, seed, phase and number, and the hashes under them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfr_jax import schedule
from lfr_jax.schedule import Purpose, jax_key, numpy_key


def test_keys_differ_in_every_argument():
    """Catches: adding seed and phase; leaving an argument out; text of varying width;
    a cached key that can be written to."""
    arguments = itertools.product([b"a", b"b"], [0, 1, 11], [0, 1, 11], [-1, 0, 1])
    keys = {numpy_key(*a).tobytes() for a in arguments}
    assert len(keys) == 2 * 3 * 3 * 3
    with pytest.raises(ValueError, match="read-only"):  # as the next to ask gets the same array
        numpy_key(b"a", 0, 0, 0)[0] = 0


def test_no_run_changes_its_numbers():
    """What runs and stores on disk were made with: these numbers stay for ever.

    Catches: another hash, other bytes of a purpose, another order of arguments, a generator of a later numpy.
    """
    assert numpy_key(Purpose.PASS, 1, 2, 3).tolist()[:3] == [869352817, 3979520415, 1657818747]
    assert schedule.random_seed(Purpose.LENGTHS, 1, 2, 3) == -3936177784850893230
    two = schedule.random_numbers(numpy_key(Purpose.LENGTHS, 1, 2, -1), 2)
    assert two.tolist() == [0.480075545921167, 0.4180409031638624]
    two = schedule.random_numbers_at(numpy_key(Purpose.FILL_IN, 1, 2, 3), np.array([7]), 2)
    assert two[:, 0].tolist() == [0.47785511214311893, 0.6319409507938757]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 0x64726F70), 2)
    assert (jax.random.key_data(jax_key(Purpose.RANDOM_DROP, 1, 2)) == jax.random.key_data(key)).all()
    assert schedule.sample_phase(3) == -4


def test_purposes_fit_their_keys():
    """Catches: a purpose too long for the hash or for the fold; the same four bytes for two uses."""
    short = [purpose for purpose in Purpose if len(purpose) <= 4]
    assert {purpose.name for purpose in short} >= {"RANDOM_DROP", "SETA", "SOFTMAX", "FRAME"}
    assert len({jax.random.key_data(jax_key(purpose, 0, 0)).tobytes() for purpose in short}) == len(short)
    assert len({numpy_key(purpose, 0, 0, 0).tobytes() for purpose in Purpose}) == len(Purpose)
    for wrong in (b"", b"longer"):
        with pytest.raises(ValueError, match=rf"the purpose of a jax_key is {wrong!r}, expected 1 to 4 bytes"):
            jax_key(wrong, 0, 0)


def test_numbers_lie_between_0_and_1():
    """Catches: 0 or 1 among numbers whose logarithm is taken; numbers of one place that depend on the others."""
    key = numpy_key(b"test", 0, 0, 0)
    numbers = schedule.random_numbers(key, 100_000)
    assert 0 < numbers.min() < 1e-4 and 1 - 1e-4 < numbers.max() < 1
    numbers = schedule.random_numbers_at(key, np.arange(50_000), 2)
    assert 0 <= numbers.min() < 1e-4 and 1 - 1e-4 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 4 * 0.29 / 100_000**0.5 and len(np.unique(numbers)) == numbers.size
    np.testing.assert_array_equal(schedule.random_numbers_at(key, np.array([7, 40_000]), 2), numbers[:, [7, 40_000]])


def test_finalisers_are_those_of_murmurhash3():
    """The values are of Appleby's own code. Catches: a shift or factor changed; numpy and jax that differ."""
    x = np.array([0, 1, 2, 2**32 - 1], np.uint32)
    assert schedule.mix32(x).tolist() == [0, 0x514E28B7, 0x30F4C306, 0x81F16F39]
    assert np.asarray(jax.jit(schedule.mix32)(jnp.asarray(x))).tolist() == schedule.mix32(x).tolist()
    assert schedule.mix64(np.array([0, 1, 2])).tolist() == [0, 0xB456BCFC34C2CB2C, 0x3ABF2A20650683E7]
