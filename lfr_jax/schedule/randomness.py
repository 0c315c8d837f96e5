"""Random numbers by purpose, seed, phase and number, without the state of a generator.

A run asks for random numbers in many places. Each place names a `Purpose`, and hashes it with the run's seed, the
number of the phase, and a number of its own. So any process draws the same numbers at any time and in any order, a
resumed run goes on as if it had not stopped, and two uses of one seed never share a number.

`numpy_key` begins what happens on the host, `jax_key` what happens inside jitted functions.
"""

import enum
import functools
import hashlib
import struct

import jax
import numpy as np

from lfr_jax.schedule.hashing import splitmix64

WORDS = 8  # of a key
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the step of SplitMix64: 2**64 over the golden ratio


@enum.unique
class Purpose(bytes, enum.Enum):
    """What random numbers are for. For a new use of the seed, add a line with bytes of its own.

    A purpose keeps its bytes for ever, or a run that is resumed would draw otherwise than before. Some uses of a
    seed know no phase and are not in the list: the params of a new model (train/steps.py), and numpy's own generators
    for clusters, noise and the null of a report.
    """

    # For `numpy_key`, up to 16 bytes. The comment says what `number` is.
    PASS = b"pass"  # the order of the blocks in a pass of a plan; number of the pass
    OFFSET = b"offset"  # where the marks of systematic sampling begin; 0
    CHUNKS = b"chunk order"  # the order of the chunks of blocks that are sampled; 0
    BLOCKS = b"block order"  # the order of the blocks in a chunk; number of the chunk
    LENGTHS = b"curriculum"  # batches of several lengths; a length in tokens, or 0, −1, −2: see data/phase_batches.py
    HELD_OUT = b"held-out order"  # the order of the held-out blocks that steps take; 0
    FILL_IN = b"fill in middle"  # which documents are rearranged, and where they are cut; number of the batch
    # For `jax_key`, up to 4 bytes.
    RANDOM_DROP = b"drop"  # the blocks that `random_drop` leaves out
    SETA = b"seta"  # the blocks that `seta` leaves out
    SOFTMAX = b"soft"  # Gumbel's noise of `softmax_rounds`
    FRAME = b"fram"  # where in its quadrant a block falls, under `frame`
    RANKED = b"rank"  # Gumbel's noise of `ranked`


@functools.lru_cache(maxsize=64)  # a batch of draws needs the keys of the batch before
def numpy_key(purpose: bytes, seed: int, phase: int, number: int) -> np.ndarray:
    """Hashes its arguments to 256 random bits: a key unlike that of any other arguments.

    The four are hashed as fields of fixed width, so seed 0 in phase 1 is not seed 1 in phase 0.

    Args:
      purpose: a `Purpose`, or other bytes, up to 16.
      seed: the run's. A signed 64-bit integer, as the next two.
      phase: number of the phase.
      number: of a pass, a batch, ...: whatever else tells the key from others.

    Returns:
      uint32[8], read-only, as the next call with these arguments returns the same array.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.numpy_key(schedule.Purpose.PASS, seed=0, phase=1, number=0)[:2].tolist()
      [1689368601, 1745756912]

    References:
      Aumasson et al. 2013, BLAKE2b, personalised by the purpose.
    """
    packed = struct.pack("<qqq", seed, phase, number)
    digest = hashlib.blake2b(packed, digest_size=4 * WORDS, person=purpose).digest()
    key = np.frombuffer(digest, "<u4").astype(np.uint32)
    key.flags.writeable = False
    return key


def jax_key(purpose: bytes, seed: int, phase: int | jax.Array) -> jax.Array:
    """A key of `jax.random` unlike that of any other arguments; for policies that choose at random.

    Args:
      purpose: a `Purpose`, or other bytes, 1 to 4.
      seed: the policy's.
      phase: number of the phase; it may be traced.

    Returns:
      key[], for `jax.random.uniform` and the like.

    Raises:
      ValueError: the purpose is longer than 4 bytes, or empty.

    Examples:
      >>> import jax
      >>> from lfr_jax import schedule
      >>> key = schedule.jax_key(b"mine", seed=0, phase=1)
      >>> bool(jax.random.bernoulli(key)), bool(jax.random.bernoulli(schedule.jax_key(b"mine", seed=0, phase=3)))
      (True, False)
    """
    if not 1 <= len(purpose) <= 4:
        raise ValueError(f"the purpose of a jax_key is {bytes(purpose)!r}, expected 1 to 4 bytes")
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), int.from_bytes(purpose, "big")), phase)


def random_seed(purpose: bytes, seed: int, phase: int, number: int) -> int:
    """A seed that follows from these four, for a function that takes a seed, such as `plan`.

    Args:
      purpose, seed, phase, number: as of `numpy_key`.

    Returns:
      A signed 64-bit integer.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.random_seed(schedule.Purpose.LENGTHS, seed=0, phase=1, number=512)
      -8770356901357022653
    """
    return int(numpy_key(purpose, seed, phase, number)[:2].view(np.int64)[0])


def random_numbers(key: np.ndarray, count: int) -> np.ndarray:
    """Numbers between 0 and 1, one after another; neither 0 nor 1 is among them.

    Args:
      key: uint32[8], of `numpy_key`.
      count: how many.

    Returns:
      float64[count], each an odd multiple of 2**-54.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.random_numbers(schedule.numpy_key(b"mine", 0, 1, 0), 3).round(3).tolist()
      [0.588, 0.1, 0.547]

    References:
      O'Neill 2014, PCG64, as numpy has it.
    """
    bits = np.random.PCG64(key).random_raw(count)
    return ((bits >> np.uint64(11)) + 0.5) * 2.0**-53


def random_numbers_at(key: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Numbers in [0, 1) for each place. They do not depend on which other places are asked for.

    Number i of place p is output `count` · p + i of the generator that begins at the key.

    Args:
      key: uint32[8], of `numpy_key`.
      places: int64[D], not negative, such as the positions of documents in a corpus.
      count: how many numbers each place gets. The same for all calls with one key, or they would share numbers.

    Returns:
      float64[count, D], multiples of 2**-53.

    Examples:
      >>> import numpy as np
      >>> from lfr_jax import schedule
      >>> key = schedule.numpy_key(b"mine", 0, 1, 0)
      >>> both, one = (schedule.random_numbers_at(key, np.array(places), 2) for places in ([5, 9], [9]))
      >>> both[:, 1].tolist() == one[:, 0].tolist()
      True

    References:
      Steele, Lea, Flood 2014, "Fast Splittable Pseudorandom Number Generators" (SplitMix64), read at random.
    """
    step = count * places.astype(np.uint64) + np.arange(count, dtype=np.uint64)[:, None]
    bits = splitmix64(key[:2].view(np.uint64) + (step + np.uint64(1)) * GOLDEN)
    return (bits >> np.uint64(11)) * 2.0**-53


def sample_phase(phase: int) -> int:
    """A number to give to `plan` in place of `phase`, for what is drawn beside the draws of the phase itself.

    A scoring pass over a sample uses it: else it would read the very blocks that the phase draws first.

    Args:
      phase: number of a phase, from 0.

    Returns:
      A number that no phase has: −1 − phase.

    Examples:
      >>> from lfr_jax import schedule
      >>> schedule.sample_phase(0), schedule.sample_phase(1)
      (-1, -2)
    """
    return -1 - phase
