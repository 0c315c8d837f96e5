"""Our tokenizers as files of transformers' AutoTokenizer: for those whose ids stay the same, token by token.

A SentencePiece model becomes a BPE with the same merges. In it a space is a space, so U+2581 in a text needs no care.
Models that this cannot express (unigram, Unicode normalisation, ...) get a tokenizer_config.json that names no
vocabulary: AutoTokenizer refuses such a folder, where it would otherwise make up a tokenizer of its own.
"""

from typing import Any

from lfr_jax.config import ModelConfig
from lfr_jax.data.gpt2_files import END, byte_alphabet
from lfr_jax.data.tokenizer import Bytes, Gpt2Bpe, SentencePiece, Tokenizer

SPACE = SentencePiece.SPACE


def tokenizer_files(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, Any]:
    """The content of tokenizer_config.json, and of tokenizer.json where the ids would be the same."""
    fast = {
        Bytes.kind: bytes_parts,
        Gpt2Bpe.kind: gpt2_parts,
        SentencePiece.kind: sentencepiece_parts,
    }.get(tokenizer.kind, lambda tokenizer: None)(tokenizer)
    files: dict[str, Any] = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.max_len,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # "</s>" in a text is text
        }
    }
    if fast is None:
        return files
    end, parts = fast
    special = {} if config.mask_documents else {"bos_token": end}  # what stands before a document
    files["tokenizer_config.json"] |= special | {"eos_token": end}
    token = {"id": tokenizer.eos_id, "content": end, "special": True, "normalized": False}
    token |= {"single_word": False, "lstrip": False, "rstrip": False}
    none = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    files["tokenizer.json"] = {"version": "1.0", "added_tokens": [token]} | none | parts
    return files


def bpe(vocab: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> dict[str, Any]:
    """The merges are in their order. Pairs are lists, since pieces may hold spaces; tokenizers reads them from 0.20."""
    defaults = dict(dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None)
    switches = dict(fuse_unk=False, byte_fallback=False, ignore_merges=False)
    return {"type": "BPE", **defaults, **switches, **options, "vocab": vocab, "merges": [list(pair) for pair in merges]}


def byte_level(use_regex: bool) -> dict[str, Any]:
    """Bytes as the characters of GPT-2's files; `use_regex` cuts text into words as GPT-2 does."""
    parts = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return {"pre_tokenizer": parts, "decoder": parts}


def bytes_parts(tokenizer: Bytes) -> tuple[str, dict[str, Any]]:
    vocab = byte_alphabet() | {END: tokenizer.eos_id}
    return END, byte_level(use_regex=False) | {"model": bpe(vocab, [])}


def gpt2_parts(tokenizer: Gpt2Bpe) -> tuple[str, dict[str, Any]]:
    vocab = tokenizer.ids | {END: tokenizer.eos_id}
    return END, byte_level(use_regex=True) | {"model": bpe(vocab, tokenizer.merges)}


def sentencepiece_parts(tokenizer: SentencePiece) -> tuple[str, dict[str, Any]] | None:
    """None: this model cannot be expressed exactly."""
    from sentencepiece.sentencepiece_model_pb2 import ModelProto, TrainerSpec

    model = ModelProto.FromString(tokenizer.files["tokenizer.model"])
    kinds = ModelProto.SentencePiece
    is_plain = (
        model.trainer_spec.model_type == TrainerSpec.BPE
        and model.trainer_spec.byte_fallback
        and not model.trainer_spec.treat_whitespace_as_suffix
        and model.normalizer_spec.escape_whitespaces
        and not model.normalizer_spec.remove_extra_whitespaces
        and not model.normalizer_spec.precompiled_charsmap
        and not model.denormalizer_spec.precompiled_charsmap
        and {piece.type for piece in model.pieces} <= {kinds.NORMAL, kinds.UNKNOWN, kinds.CONTROL, kinds.BYTE}
        and sum(piece.type == kinds.BYTE for piece in model.pieces) == 256
    )
    if not is_plain:
        return None
    vocab = {piece.piece.replace(SPACE, " "): i for i, piece in enumerate(model.pieces)}
    normal = {piece.piece.replace(SPACE, " "): piece.score for piece in model.pieces if piece.type == kinds.NORMAL}
    longer = [piece for piece in normal if len(piece) > 1]
    scores = {normal[piece] for piece in longer}
    others = [piece for piece in vocab if piece not in normal]
    if (
        len(vocab) < len(model.pieces)
        or len(scores) < len(longer)  # of equal scores, the leftmost pair is merged first
        or any(char not in normal for piece in longer for char in piece)
        or any(len(piece) < 2 for piece in others)
    ):
        return None
    # Of two pairs that give the same piece, SentencePiece merges the leftmost: in a run of equal characters that is
    # the one whose first part is the longer.
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(longer, key=normal.__getitem__, reverse=True)
        for cut in range(len(piece) - 1, 0, -1)
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    steps, decoders = [], [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if not tokenizer.keeps_space:
        steps.append({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})
    if model.normalizer_spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": " "})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    parts: dict[str, Any] = {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": bpe(vocab, merges, byte_fallback=True),
    }
    return model.pieces[tokenizer.eos_id].piece.replace(SPACE, " "), parts
