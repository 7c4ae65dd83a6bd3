"""Prompts to token ids of fixed lengths."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer as Backend

COUNTED = 4096  # prompts whose tokens are held at once


@dataclass(frozen=True)
class Encoded:
    """A prompt as one text encoder takes it."""

    part: str  # kind of the tokenizer: clip_l, clip_g, t5, qwen3 or mistral3
    ids: list[int]  # of the tokenizer's max_length, padding included
    mask: list[int]  # 1 for tokens, 0 for padding
    num_tokens: int  # of the prompt alone, without marks and template, before truncation
    truncated: bool  # whether that is more than the tokenizer's max_tokens


class Tokens(NamedTuple):
    """A prompt as all text encoders of a family take it, one after the other."""

    ids: list[int]
    mask: list[int]


class Tokenizer(ABC):
    """The tokenizer of one text encoder.

    Args:
        kind: What `Encoded.part` says.
        backend: Text to ids.
        pad_token: What fills up to `max_length`.
        max_length: Ids of every prompt.
        where: Its folder, for errors.
        pads_left: Whether the padding comes first.
    """

    def __init__(
        self,
        kind: str,
        backend: Backend,
        pad_token: str,
        max_length: int,
        where: Path,
        pads_left: bool = False,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.kind = kind
        self.max_length = max_length
        self._backend = backend
        self._pads_left = pads_left
        self._num_template = len(self._encode(self._text("")))  # of what is cut with the prompt
        num_marks = self._count_marks()
        self.max_tokens = max_length - num_marks  # of a prompt alone
        self._pad_id = require_tokens(backend, [pad_token], where)[0]
        if self.max_tokens <= 0:
            raise ValueError(
                f"{where}: max_length {max_length!r} leaves no room for a prompt, its marks and "
                f"template alone take {num_marks} tokens: raise it"
            )

    @property
    def vocab_size(self) -> int:
        """Number of ids, those of added tokens included."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def ids(self, prompt: str) -> Encoded:
        """Tokenize a prompt to exactly `max_length` ids."""
        kept, num_tokens = self._tokens(prompt)
        padding = self.max_length - len(kept)
        pad_ids, pad_mask = [self._pad_id] * padding, [0] * padding
        mask = [1] * len(kept)
        return Encoded(
            part=self.kind,
            ids=pad_ids + kept if self._pads_left else kept + pad_ids,
            mask=pad_mask + mask if self._pads_left else mask + pad_mask,
            num_tokens=num_tokens,
            truncated=num_tokens > self.max_tokens,
        )

    def count(self, prompts: Sequence[str]) -> list[int]:
        """Count the tokens of each prompt, as `Encoded.num_tokens`; in threads, so much faster."""
        counts: list[int] = []
        for start in range(0, len(prompts), COUNTED):
            texts = [self._text(prompt) for prompt in prompts[start : start + COUNTED]]
            encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
            counts += [max(0, len(each) - self._num_template) for each in encoded]
        return counts

    def cut(self, prompt: str) -> str:
        """Give the end of a prompt that its text encoder does not see, or nothing."""
        text, room = self._text(prompt), self.max_tokens + self._num_template
        before, after = map(len, self._text("\0").split("\0"))
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        seen = offsets[room][0] if len(offsets) > room else len(text)
        return text[max(seen, before) : len(text) - after]

    def _encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    @abstractmethod
    def _text(self, prompt: str) -> str:
        """Give the text that is tokenized and cut: a prompt, in its template where it has one."""

    @abstractmethod
    def _count_marks(self) -> int:
        """Count the ids that the empty prompt takes."""

    @abstractmethod
    def _tokens(self, prompt: str) -> tuple[list[int], int]:
        """Give at most `max_length` ids, and the number of tokens of the whole prompt."""


class MarkedTokenizer(Tokenizer):
    """Put marks before and after a prompt, which stay where the prompt is cut."""

    def __init__(
        self,
        kind: str,
        backend: Backend,
        pad_token: str,
        max_length: int,
        where: Path,
        before: list[str],
        after: list[str],
    ) -> None:
        self._before = require_tokens(backend, before, where)
        self._after = require_tokens(backend, after, where)
        super().__init__(kind, backend, pad_token, max_length, where)

    def _text(self, prompt: str) -> str:
        return prompt

    def _count_marks(self) -> int:
        return len(self._before) + len(self._after)

    def _tokens(self, prompt: str) -> tuple[list[int], int]:
        tokens = self._encode(prompt)
        return self._before + tokens[: self.max_tokens] + self._after, len(tokens)


class ChatTokenizer(Tokenizer):
    """Render a prompt in a chat template, and cut the end of it all."""

    def __init__(
        self,
        kind: str,
        backend: Backend,
        pad_token: str,
        max_length: int,
        where: Path,
        render: Callable[[str], str],
        pads_left: bool = False,
    ) -> None:
        self._render = render
        super().__init__(kind, backend, pad_token, max_length, where, pads_left)

    def _text(self, prompt: str) -> str:
        return self._render(prompt)

    def _count_marks(self) -> int:
        return self._num_template

    def _tokens(self, prompt: str) -> tuple[list[int], int]:
        tokens = self._encode(self._text(prompt))
        return tokens[: self.max_length], max(0, len(tokens) - self._num_template)


class PromptTokenizer:
    """All tokenizers of a family, in its order.

    Args:
        tokenizers: By kind, those that the model has.
        lengths: By kind, tokens of a prompt; also of an optional part that the model lacks.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer], lengths: Mapping[str, int]) -> None:
        self.tokenizers = dict(tokenizers)
        self.lengths = dict(lengths)

    def encode(self, prompt: str) -> list[Encoded]:
        """Tokenize a prompt for each text encoder."""
        return [tokenizer.ids(prompt) for tokenizer in self.tokenizers.values()]

    def tokens(self, prompt: str) -> Tokens:
        """Tokenize a prompt for all text encoders: ids and mask, one part after the other."""
        encoded = self.encode(prompt)
        return Tokens(
            ids=[i for part in encoded for i in part.ids],
            mask=[m for part in encoded for m in part.mask],
        )


def require_tokens(backend: Backend, tokens: list[str], where: Path) -> list[int]:
    """Give the ids of tokens that must be there.

    Raises:
        ValueError: Some are not.
    """
    ids = {token: backend.token_to_id(token) for token in tokens}
    if absent := [token for token, index in ids.items() if index is None]:
        raise ValueError(
            f"{where}: the tokenizer lacks the tokens {absent!r} that its model is prompted with: "
            "give the tokenizer folder of a model of the family"
        )
    return [index for index in ids.values() if index is not None]
