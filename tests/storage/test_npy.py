"""NumPy's formats, read from bytes that anybody may have edited."""

import io

import hostile
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from lfr_jax.storage.npy import npz_members, parse_npy


def saved(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def saved_npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "array, dtype, shape",
    [
        (np.arange(5), "<i8", (5,)),
        (np.arange(5), "<i8", (None,)),
        (np.arange(0), "<i8", (0,)),
        (np.arange(12, dtype=np.uint64).reshape(6, 2), "<u8", (None, 2)),
        (np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "|u1", (1, 2, 3)),
        (np.float32(7), "<f4", ()),
    ],
)
def test_arrays_are_read_as_numpy_reads_them(array, dtype, shape):
    """Catches: a header of any number of dimensions that is not understood; values from the wrong position."""
    found = parse_npy(saved(array), "a.npy", dtype, shape)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype and found.shape == array.shape and not found.flags.writeable


@pytest.mark.parametrize(
    "raw, problem",
    [
        (
            saved(np.arange(5, dtype=np.int32)),
            r"found an array of type <i4 and shape \(5,\), expected .* type <i8 .* \(4\)",
        ),
        (saved(np.arange(5)), r"shape \(5,\), expected"),
        (saved(np.arange(4).reshape(2, 2)), r"shape \(2, 2\), expected"),
        (saved(np.array([{}], object)), "as np.save writes it"),
        (saved(np.arange(4))[:-1], "found 159 bytes, which are not"),
        (saved(np.arange(4)) + b"x", "found 161 bytes, which are not"),
        (saved(np.arange(4)).replace(b"(4,)", b"(9999999999,)"), "as np.save writes it"),
        (saved(np.arange(4))[:99], "as np.save writes it"),
        (
            saved(np.arange(4)).replace(b"(4,)", b"(" + b"9" * 90 + b"x"),
            "as np.save writes it",
        ),  # at once: no backtracking
        (saved(np.arange(4)).replace(b"(4,), }  ", b"(4, ,), }"), r"found an array of type <i8 and shape \(4, ,\)"),
        (b"", "found b''... in 0 bytes"),
    ],
    ids="type,length,dimensions,object,cut off,too long,large,short header,long shape,odd shape,empty".split(","),
)
def test_what_is_refused(raw, problem):
    """Catches: each check, if it is dropped; a pickle that is loaded."""
    with pytest.raises(ValueError, match=f"a.npy: .*{problem}"):
        parse_npy(raw, "a.npy", "<i8", (4,))


def test_a_large_shape_allocates_nothing():
    """Catches: memory for what a header says and the file has not."""
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999999999, 999999999999999999), }\n"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(ValueError, match="found 104 bytes, which are not those"):
        parse_npy(raw, "a.npy", "<i8", (None, None))


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(data=st.data())
def test_any_bytes_give_an_array_or_an_error(data):
    """Catches: any exception but ours."""
    raw = data.draw(hostile.edited_bytes(saved(np.arange(3))))
    try:
        assert parse_npy(raw, "a.npy", "<i8", (None,)).dtype == np.int64
    except ValueError as error:
        assert "a.npy" in str(error) and len(str(error)) < 500
    npz = data.draw(hostile.edited_bytes(saved_npz(a=np.arange(3), b=np.zeros(2))))
    try:
        assert set(npz_members(npz, "a.npz", ("a", "b"))) <= {"a", "b"}
    except ValueError as error:
        assert "a.npz" in str(error) and len(str(error)) < 500


def test_members_of_a_file():
    """Catches: an array lost, a foreign one taken; a packed one, which may unpack to any size."""
    found = npz_members(saved_npz(a=np.arange(3), b=np.zeros(2)), "a.npz", ("a", "b", "c"))
    assert found == {"a": saved(np.arange(3)), "b": saved(np.zeros(2))}
    with pytest.raises(ValueError, match="a.npz: .*found an array 'b' in it"):
        npz_members(saved_npz(a=np.arange(3), b=np.zeros(2)), "a.npz", ("a",))
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.zeros(10**6))
    with pytest.raises(ValueError, match="a.npz: .*found 'a' compressed"):
        npz_members(packed.getvalue(), "a.npz", ("a",))
    flipped = bytearray(saved_npz(a=np.arange(3)))
    flipped[flipped.index(b"\x01\0\0\0\0\0\0\0\x02")] ^= 4
    with pytest.raises(ValueError, match="a.npz: .*Bad CRC-32"):
        npz_members(bytes(flipped), "a.npz", ("a",))
