"""Section `data.captions`: how a picture's captions are read, varied and checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.params.schema import number


@dataclass(frozen=True)
class Captions:
    """What is made of the captions as written; every variant is encoded once and cached."""

    columns: list[str] = field(default_factory=list)  # of a metadata table; []: its usual one
    per_line: bool = False  # each line of a caption file is a caption of its own
    prefix: str = ""  # put before every caption, as it stands
    suffix: str = ""  # put after every caption, as it stands
    tag_separator: str = ","  # between the tags of a caption
    shuffle_tags: bool = False  # another order of the tags in each variant
    keep_tags: int = number(0, at_least=0)  # first tags that are neither moved nor dropped
    tag_dropout: float = number(0.0, at_least=0, below=1)  # share of the tags a variant lacks
    wildcards: bool = False  # {red|blue} stands for one of its parts, drawn for each variant
    variants: int = number(1, at_least=1)  # draws of each caption, where anything is drawn
    trigger_word: str | None = None  # word that the training binds; its coverage is reported
    class_word: str | None = None  # word of what the trigger is one of; counted beside it
    max_truncated_fraction: float = number(1.0, at_least=0, at_most=1)  # above: failure
    max_duplicate_fraction: float = number(1.0, at_least=0, at_most=1)  # above: failure
    max_unclean_fraction: float = number(0.02, at_least=0, at_most=1)  # HTML, control characters
    min_trigger_fraction: float = number(0.0, at_least=0, at_most=1)  # below: failure

    def __post_init__(self) -> None:
        """Refuse settings that nothing would read."""
        draws = self.shuffle_tags or self.tag_dropout > 0 or self.wildcards
        if self.variants > 1 and not draws:
            raise ValueError(
                f"data.captions.variants: {self.variants} given, but nothing differs between them: "
                "set shuffle_tags, tag_dropout or wildcards, or variants to 1"
            )
        if self.min_trigger_fraction and self.trigger_word is None:
            raise ValueError(
                f"data.captions.min_trigger_fraction: {self.min_trigger_fraction:g} given, but "
                "data.captions.trigger_word is null: give the word"
            )
        if not self.tag_separator.strip():
            raise ValueError("data.captions.tag_separator is blank: give a mark such as ','")
        for name in ("trigger_word", "class_word"):
            word = getattr(self, name)
            if word is not None and not word.strip():
                raise ValueError(f"data.captions.{name}: {word!r} is blank: give a word or null")
