"""Texts as token ids: the bytes of UTF-8, a tokenizer of Hugging Face's `tokenizers`, or the user's own function.

Training, `predict` and a server encode their texts with this module. Needs neither torch nor polars.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rushlight import files
from rushlight.data.spec import FeatureSpec, Tokens
from rushlight.errors import DataError, UsageError
from rushlight.texts import Note

Array = np.ndarray[Any, np.dtype[Any]]
MOST_TOKENS = 512  # of a text, unless another length is chosen
PADDINGS = ("[PAD]", "<pad>", "<|pad|>")  # as tokenizers call it
# its ids tell one function from another
PROBE = " ".join(
    ("the", "a", "is", "not", "film", "good", "bad", "It's", "2024", "naïve", "A.", "狐狸很好", "😀", "xqzv")
)
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


def is_running_text(values: Sequence[str | None]) -> bool:
    """Tell whether values are texts, not categories: mostly different ones, half of them of three words or more.

    A Chinese, Japanese or Korean character counts as a word.
    """
    known = [value for value in values if value is not None]
    words = sorted(len(WORD.findall(value)) for value in known)
    return len(known) > 0 and 2 * len(set(known)) > len(known) and words[len(words) // 2] >= 3


def as_plain_text(cell: object) -> str:
    """Return a cell as text; a missing one is an empty text."""
    return "" if cell is None else str(cell)


def learn_tokens(texts: Sequence[str], tokenizer: Any, length: int | None) -> tuple[Tokens, int]:
    """Return how texts become ids, and how many of these training texts are longer than that.

    Without `length`: the tokenizer's own truncation, else the longest text, at most MOST_TOKENS ids.
    """
    tokens, usual = identified_tokens(tokenizer)
    ids = token_ids(texts, tokens)
    if callable(tokens.tokenizer):
        known = getattr(tokens.tokenizer, "vocab_size", None) or max(
            (int(row.max()) + 1 for row in ids if len(row)), default=1
        )
        own = getattr(tokens.tokenizer, "pad_token_id", None)
        tokens = with_padding(tokens, int(known), own)
    lengths = [len(row) for row in ids]
    chosen = length or usual or min(max(lengths, default=1), MOST_TOKENS)
    return replace(tokens, length=max(chosen, 1)), sum(each > chosen for each in lengths)


def identified_tokens(given: Any) -> tuple[Tokens, int | None]:
    """Return what a tokenizer is (its length, and a function's vocabulary, are still open), and its own truncation if any.

    `given` is None (bytes), the path of a `tokenizer.json`, a tokenizer of `tokenizers` or `transformers`, or a function.
    """
    if given is None:
        return Tokens(0), None
    if (content := tokenizer_json(given)) is not None:
        own = loaded.__wrapped__(content, None)  # not the one in the cache, since it is changed here
        usual, padding = (own.truncation or {}).get("max_length"), (own.padding or {}).get("pad_id")
        names = [own.token_to_id(name) for name in PADDINGS]
        padding = padding if padding is not None else next((each for each in names if each is not None), None)
        own.no_padding()
        own.no_truncation()
        known = max(own.get_vocab(with_added_tokens=True).values(), default=0) + 1
        return with_padding(Tokens(0, tokenizer=own.to_str()), known, padding), usual
    if not callable(given):
        raise UsageError("no-tokenizer", found=type(given).__name__)
    probe = own_ids(given, PROBE)
    return Tokens(0, tokenizer=given, digest=hashlib.sha256(probe.astype("<i8").tobytes()).hexdigest()), None


def with_padding(tokens: Tokens, vocabulary: int, padding: int | None) -> Tokens:
    """Return tokens of a vocabulary with the tokenizer's own padding, or one more id for it."""
    size = vocabulary + 1 if padding is None else max(vocabulary, int(padding) + 1)
    return replace(tokens, vocabulary=size, padding=vocabulary if padding is None else int(padding))


def tokenizer_json(given: Any) -> str | None:
    """Return the content of a `tokenizer.json`, or of a tokenizer of `tokenizers` or `transformers`; None for any other."""
    if isinstance(given, (str, Path)):
        try:
            return files.read_bytes(Path(given), files.MOST_JSON).decode()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError("tokenizer-unreadable", path=given, reason=reason) from error
    fast = getattr(given, "backend_tokenizer", given)  # which transformers' fast tokenizers hold
    content: str | None = fast.to_str() if hasattr(fast, "to_str") else None
    return content


@functools.lru_cache(maxsize=8)
def loaded(content: str, length: int | None) -> Any:
    """Return a tokenizer made of its JSON, which is data only; cut at `length` with the tokens that belong at the end."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError("tokenizers-missing") from error
    try:
        found = Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises nothing else
        raise UsageError("tokenizer-unreadable", path="tokenizer.json", reason=error) from error
    if length is not None:
        found.enable_truncation(length)
    return found


def token_ids(texts: Sequence[str], tokens: Tokens, length: int | None = None) -> list[Array]:
    """Return the ids of each text, at most `length` of them."""
    if tokens.tokenizer == "bytes":
        return [np.frombuffer(text.encode("utf-8", "replace")[:length], np.uint8) for text in texts]
    if isinstance(tokens.tokenizer, str):
        if tokens.digest:
            raise UsageError("tokenizer-needed", name=tokens.tokenizer)
        encode = loaded(tokens.tokenizer, length).encode  # encode_batch has threads, which warn in every later fork
        return [np.array(encode(text).ids, np.int64) for text in texts]
    return [own_ids(tokens.tokenizer, text)[:length] for text in texts]


def own_ids(tokenizer: Any, text: str) -> Array:
    """Return what the user's function makes of a text, (ids,); DataError where that is no list of whole numbers."""
    try:
        found = tokenizer(text)
        found = found["input_ids"] if isinstance(found, Mapping) else getattr(found, "ids", found)
        ids = np.asarray(found)
    except Exception as error:  # the function is the user's
        raise DataError("tokenizer-failed", text=text[:60], reason=f"{type(error).__name__}: {error}") from error
    if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0)):
        raise DataError("tokenizer-failed", text=text[:60], reason=Note("data.not-ids", found=found))
    return ids.astype(np.int64)


def encode_texts(cells: Iterable[object], tokens: Tokens) -> Array:
    """Return texts as ids, (n, tokens.length), in the smallest whole numbers that hold them; DataError for an unknown id."""
    texts = [as_plain_text(cell) for cell in cells]
    dtype = np.int16 if max(tokens.vocabulary, tokens.padding) < 1 << 15 else np.int32
    ids = np.full((len(texts), tokens.length), tokens.padding, dtype)
    for place, (row, found) in enumerate(zip(ids, token_ids(texts, tokens, tokens.length), strict=True)):
        if len(found) and found.max() >= tokens.vocabulary:
            raise DataError("token-unknown", text=texts[place][:60], id=int(found.max()), last=tokens.vocabulary - 1)
        row[: len(found)] = found
    return ids


def with_tokenizer(features: FeatureSpec, tokenizer: Any) -> FeatureSpec:
    """Return the spec with the user's tokenizer, given again; UsageError where it is not the one of the training."""
    tokens = features.tokens
    given, _ = identified_tokens(tokenizer)
    if tokens is None or (given.digest or given.tokenizer) != (tokens.digest or tokens.tokenizer):
        raise UsageError("tokenizer-differs")
    column = replace(features.columns[0], tokens=replace(tokens, tokenizer=given.tokenizer))
    return replace(features, columns=(column, *features.columns[1:]))


def decoded_text(ids: Array, tokens: Tokens) -> str:
    """Return the text of ids, as far as it was kept and can be told."""
    kept = [token for token in ids.tolist() if token != tokens.padding]
    if tokens.tokenizer == "bytes":
        return bytes(kept).decode("utf-8", "replace")
    if isinstance(tokens.tokenizer, str) and not tokens.digest:
        text: str = loaded(tokens.tokenizer, None).decode(kept)
        return text
    return " ".join(map(str, kept))
