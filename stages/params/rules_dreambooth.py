"""What DreamBooth's prompts, its prior and what it trains must agree on."""

from __future__ import annotations

from collections.abc import Iterator

from stages.class_images import rare_words, words
from stages.params.config import Config
from stages.params.methods import Dreambooth
from stages.wildcards import INNERMOST, is_balanced

NAME = "training.dreambooth"
ARTICLES = {"a", "an", "the"}
WITHIN = ("lora", "full_finetune")  # methods that DreamBooth trains with


def dreambooth(config: Config) -> Iterator[str]:
    """Yield each broken rule of `training.dreambooth` as a sentence that names its keys."""
    training = config.training
    if training.method != "dreambooth":
        return
    settings = training.dreambooth
    if settings is None:
        yield f"{NAME} is null, but training.method 'dreambooth' needs its prompts: give them"
        return
    yield from _prompts(settings)
    yield from _prior(settings)
    learns = training.learns
    if learns == "lora" and training.lora is None:
        yield f"{NAME}.train: 'lora' given, but training.lora is null: give it, if only {{}}"
    for other in WITHIN:
        if other != learns and getattr(training, other) is not None:
            yield (
                f"training.{other} is given, but DreamBooth trains by {learns!r}, which does not "
                f"read it: set training.{other} to null, or {NAME}.train to {other!r}"
            )
    if training.editing is not None:
        yield (
            f"training.editing: {training.editing!r} given, but the pictures of DreamBooth's class "
            "have no references and no masks: set it to null"
        )


def _prompts(settings: Dreambooth) -> Iterator[str]:
    instance, kind = settings.instance_prompt, settings.class_prompt
    for key, text in (("instance_prompt", instance), ("class_prompt", kind)):
        if not words(text):
            yield f"{NAME}.{key}: {text!r} given, but it has no word: write what the pictures show"
            return
    if not is_balanced(kind):
        yield f"{NAME}.class_prompt: {kind!r} has a brace without its partner: mend it"
        return
    if not rare_words(instance, kind):
        yield (
            f"{NAME}.instance_prompt: {instance!r} has no word that class_prompt {kind!r} lacks: "
            "give the subject a rare word of its own, such as 'sks'"
        )
    shared = {word.casefold() for word in words(INNERMOST.sub(" ", kind))} - ARTICLES
    if not shared & {word.casefold() for word in words(instance)}:
        yield (
            f"{NAME}.instance_prompt: {instance!r} has no word of class_prompt {kind!r}: name the "
            "class in both, such as 'a photo of sks dog' and 'a photo of dog'"
        )


def _prior(settings: Dreambooth) -> Iterator[str]:
    number, prior = settings.num_class_images, settings.prior
    if prior == "images" and not number:
        yield (
            f"{NAME}.num_class_images: 0 given, but {NAME}.prior 'images' learns from them: give "
            "a number such as 200, or set prior to 'prediction' or 'none'"
        )
    if prior != "images" and number:
        yield (
            f"{NAME}.num_class_images: {number} given, but {NAME}.prior {prior!r} uses no pictures "
            "of the class: set it to 0, or prior to 'images'"
        )
    if prior == "prediction" and INNERMOST.search(settings.class_prompt):
        yield (
            f"{NAME}.class_prompt: {settings.class_prompt!r} has a choice {{a|b}}, which only the "
            f"pictures of {NAME}.prior 'images' are drawn with: write one prompt"
        )
