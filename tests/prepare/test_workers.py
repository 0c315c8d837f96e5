"""Worker processes: what goes wrong in one arrives in the main process as an error that it can handle."""

import pickle

import pytest
import zstandard

from lfr_jax.prepare import workers


class Panic(BaseException):
    """As a library in Rust raises: no `Exception`."""


class TwoArguments(Exception):
    """Pickles, but another process cannot make it again."""

    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}")


@pytest.mark.parametrize(
    "error", [Panic("at byte 7"), TwoArguments("x", "at byte 7"), zstandard.ZstdError("at byte 7")]
)
def test_every_error_pickles(error):
    """Catches: an error that is lost on its way, or ends the pool instead of being told."""

    def failing():
        raise error

    with pytest.raises(Exception, match="at byte 7") as raised:
        workers.portable(failing)
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value) and type(error).__name__ in f"{type(again).__name__}: {again}"


def test_an_error_that_pickles_is_handed_on_as_it_is():
    """Catches: a full disk that is no OSError with its number any more; a note that is lost."""
    error = OSError(28, "No space left on device")
    error.add_note("It was reading x.")

    def failing():
        raise error

    with pytest.raises(OSError) as raised:
        workers.portable(failing)
    again = pickle.loads(pickle.dumps(raised.value))
    assert again.errno == 28 and again.__notes__ == error.__notes__
