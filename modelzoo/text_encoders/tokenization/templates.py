"""The conversations that language models are shown a prompt in."""

from __future__ import annotations

# Qwen3's chat template for one user message, generation prompt on, thinking off
QWEN3_BEFORE = "<|im_start|>user\n"
QWEN3_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN3_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN3_MARKS = ["<think>", "</think>"]  # one token each, but not special
# the same as a template that transformers renders
QWEN3_CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)

# what FLUX.2 dev was trained with, to the letter, the line break included
MISTRAL3_SYSTEM = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing "
    "on object relationships, object\nattribution and actions without speculation."
)
MISTRAL3_BEFORE = f"<s>[SYSTEM_PROMPT]{MISTRAL3_SYSTEM}[/SYSTEM_PROMPT][INST]"
MISTRAL3_AFTER = "[/INST]"
MISTRAL3_IMAGE = "[IMG]"  # stands for a picture, so it is taken out of prompts
MISTRAL3_PAD = "<pad>"
MISTRAL3_SPECIAL = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", MISTRAL3_IMAGE, MISTRAL3_PAD),
    *("[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
]
# the same as a template that transformers renders, contents in parts
MISTRAL3_CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '[SYSTEM_PROMPT]' if message.role == 'system' else '[INST]' }}"
    "{%- for part in message.content %}"
    "{{- '[IMG]' if part.type == 'image' else part.text }}"
    "{%- endfor %}"
    "{{- '[/SYSTEM_PROMPT]' if message.role == 'system' else '[/INST]' }}"
    "{%- endfor %}"
)


def render_qwen3(prompt: str) -> str:
    """Put a prompt into Qwen3's chat template."""
    return f"{QWEN3_BEFORE}{prompt}{QWEN3_AFTER}"


def render_mistral3(prompt: str) -> str:
    """Put a prompt into Mistral-3's chat template, behind FLUX.2's system message."""
    return f"{MISTRAL3_BEFORE}{prompt.replace(MISTRAL3_IMAGE, '')}{MISTRAL3_AFTER}"
