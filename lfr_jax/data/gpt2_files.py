"""GPT-2's `encoder.json` (pieces and their ids) and `vocab.bpe` (merges), checked."""

from typing import NamedTuple

from lfr_jax.config.json_files import from_json
from lfr_jax.config.values import AtLeast0

END = "<|endoftext|>"


class Gpt2Files(NamedTuple):
    """Pieces are written in the characters of `byte_alphabet`."""

    ids: dict[str, int]  # of all pieces but END: 0-255 the bytes, then the merges in their order
    merges: list[tuple[str, str]]
    eos_id: int  # the last id


def read_gpt2_files(encoder: bytes, merges: bytes, encoder_json: object, vocab_bpe: object) -> Gpt2Files:
    """Reads the two files; the last two arguments are their names, for errors.

    Raises:
      ValueError: a file is broken, or the two do not belong together. tiktoken merges the pair of the lowest id first,
        so ids must be in the order of the merges.
    """
    ids = from_json(encoder, dict[str, AtLeast0], encoder_json)
    try:
        lines = [line.rstrip("\r") for line in merges.decode().split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{vocab_bpe}: found bytes that are not UTF-8 ({error}), expected merges as text") from None
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if END not in ids:
        raise ValueError(f"{encoder_json}: found no {END} in it, expected one, which separates documents")
    eos_id = ids.pop(END)
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= ids.keys():
            raise ValueError(f"{vocab_bpe}: found the merge {' '.join(pair)[:80]!r}, expected two pieces that have ids")
    merged = ["".join(pair) for pair in pairs]
    expected = {piece: i for i, piece in enumerate(merged, start=256)}
    found = {piece: i for piece, i in ids.items() if i >= 256}
    byte_ids = {piece: i for piece, i in ids.items() if i < 256}
    bytes_are_right = byte_ids.keys() == byte_alphabet().keys() and len(set(byte_ids.values())) == 256
    if found != expected or len(expected) < len(merged) or not bytes_are_right or eos_id != len(ids):
        raise ValueError(
            f"{encoder_json} and {vocab_bpe}: found {len(ids)} pieces and {len(merged)} merges that do not belong "
            "together; expected ids 0-255 for the bytes, 256, 257, ... for the merges in their order, and then "
            f"{END}"
        )
    return Gpt2Files(ids, pairs, eos_id)


def byte_alphabet() -> dict[str, int]:
    """The byte of each character in GPT-2's files: a visible one is itself, U+0100 and on are the others."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
