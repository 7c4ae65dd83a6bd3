"""Which layers get an adapter: patterns, a family's usual ones, and their errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from torch import nn

LAYERS = (nn.Linear, nn.Conv2d)  # kinds of layers that can have an adapter
SINGLE = r"single_transformer_blocks\.\d+"

ATTENTION = ("to_q", "to_k", "to_v", r"to_out\.0")
CONTEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
FEED_FORWARD = (r"ff\.net\.0\.proj", r"ff\.net\.2")
JOINT_FEED_FORWARD = (r"ff(_context)?\.net\.0\.proj", r"ff(_context)?\.net\.2")

# Named sets of patterns by family: where queries, keys, values and outputs are computed (fused with
# the MLP in the single-stream blocks of FLUX.2, and its output in those of FLUX.1), and the MLPs.
SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "sdxl": {
        "attention": (*ATTENTION, r"attentions\.\d+\.proj_in", r"attentions\.\d+\.proj_out"),
        "feed-forward": FEED_FORWARD,
    },
    "flux": {
        "attention": (*ATTENTION, *CONTEXT, rf"{SINGLE}\.proj_out"),
        "feed-forward": (*JOINT_FEED_FORWARD, rf"{SINGLE}\.proj_mlp"),
    },
    "flux2": {
        "attention": (
            *ATTENTION,
            *CONTEXT,
            rf"{SINGLE}\.attn\.to_qkv_mlp_proj",
            rf"{SINGLE}\.attn\.to_out",
        ),
        "feed-forward": (r"ff(_context)?\.linear_in", r"ff(_context)?\.linear_out"),
    },
    "sd3": {
        "attention": (*ATTENTION, *CONTEXT),
        "feed-forward": JOINT_FEED_FORWARD,
    },
}
# of CLIP, in whatever family
TEXT_SETS: dict[str, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "feed-forward": ("fc1", "fc2"),
}
UNREAD = "text_projection"  # of CLIP: diffusers passes over the ranks of its adapters
for _sets in (*SETS.values(), TEXT_SETS):
    _sets["all-linear"] = (*_sets["attention"], *_sets["feed-forward"])


def layers(network: nn.Module) -> dict[str, nn.Module]:
    """Give the layers of a network that can have an adapter, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, LAYERS) and not name.startswith(UNREAD)
    }


def patterns(family: str, given: Sequence[str] | None) -> list[str]:
    """Write out the named sets among the given patterns; None is the family's set "attention".

    Raises:
        ValueError: Nothing is given.
    """
    return _written_out(SETS[family], given, "training.lora.target_modules")


def text_patterns(given: Sequence[str] | None) -> list[str]:
    """Do the same for CLIP's layers.

    Raises:
        ValueError: Nothing is given.
    """
    return _written_out(TEXT_SETS, given, "training.lora.text_target_modules")


def _written_out(
    sets: Mapping[str, tuple[str, ...]], given: Sequence[str] | None, key: str
) -> list[str]:
    if given is None:
        return list(sets["attention"])
    if not given:
        raise ValueError(f"{key} is empty: give patterns, or null")
    return [one for name in given for one in sets.get(name, (name,))]


def choose(names: Iterable[str], given: Sequence[str], key: str) -> list[str]:
    """Choose the names that one of the patterns fits, in the order of the names.

    Args:
        names: Of layers.
        given: Regular expressions for the end of a name, from a dot on: `to_q`, `attn.to_[qkv]`.
        key: Whence the patterns come, for errors.

    Raises:
        ValueError: A pattern is none, or fits no name.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in given:
        found = [name for name in names if fits(pattern, name, key)]
        if not found:
            raise ValueError(
                f"{key}: {pattern!r} fits no layer of this model; {_advice(pattern, names)}"
            )
        chosen.update(found)
    return [name for name in names if name in chosen]


def fits(pattern: str, name: str, key: str) -> bool:
    """Tell whether a pattern is the end of a name, from a dot on.

    Raises:
        ValueError: The pattern is no regular expression.
    """
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None
    except re.error as error:
        raise ValueError(f"{key}: {pattern!r} is no regular expression: {error}") from None


def exact(chosen: Sequence[str], names: Iterable[str]) -> str:
    """Write a regular expression that fits the chosen names and no other of all names."""
    wanted, parts = set(chosen), []
    numbered = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "{}", name) for name in chosen)
    every = list(names)
    for form in numbered:
        pattern = re.escape(form).replace(r"\{\}", r"\d+")
        found = {name for name in every if re.fullmatch(pattern, name)}
        if found <= wanted:
            parts.append(pattern)
        else:
            parts += [re.escape(name) for name in sorted(found & wanted)]
    return "|".join(parts)


def _advice(pattern: str, names: Sequence[str]) -> str:
    """Name the ends of names that are like the pattern."""
    ends = set()
    for name in names:
        parts = name.split(".")
        ends |= {".".join(parts[-count:]) for count in (1, 2, 3)}
    ends = {end for end in ends if not end[0].isdigit()}
    near = get_close_matches(pattern.replace("\\", ""), sorted(ends), n=3, cutoff=0.5)
    shown = near or sorted(end for end in ends if "." not in end)
    return f"{'the nearest are' if near else 'known are'} {', '.join(map(repr, shown))}"
