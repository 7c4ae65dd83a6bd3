"""Convert models between single files and diffusers folders, as a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelzoo.checkpoints.folder import (
    DIFFUSERS_STEM,
    TRANSFORMERS_STEM,
    load_component,
    read_config,
    save_component,
)
from modelzoo.checkpoints.layouts.places import CLASSES, WRITTEN, denoiser
from modelzoo.checkpoints.single_file import Component, open_single_file, save_single_file
from modelzoo.text_encoders.tokenization.parts import text_parts

AUTOENCODERS = ("AutoencoderKL", "AutoencoderKLFlux2")
DECODERS = {"Qwen3ForCausalLM": "qwen3", "Mistral3ForConditionalGeneration": "mistral3"}


def convert(source: Path, target: Path, layout: str | None, family: str | None) -> list[str]:
    """Write a model in another layout, and say what was written.

    Args:
        source: A single file, or a diffusers folder of a model or of one component.
        target: A single file if it ends with .safetensors, otherwise a diffusers folder.
        layout: Of a single file: bfl, stability, comfy, diffusers.
        family: `model.type`, where the source does not show it.

    Raises:
        FileNotFoundError: There is no such source, or it is not complete.
        ValueError: The source is not known, or the target cannot hold it or exists.
    """
    if target.exists():
        raise ValueError(f"{target} exists already: remove it, or give another target")
    if source.is_dir():
        family, components = read_folder(source, family)
    else:
        file = open_single_file(source, family)
        family, components = file.family, file.components
    if family is None:
        raise ValueError(
            f"{source} holds only {sorted(components)!r}, which several families have: say "
            f"--family, one of {sorted(CLASSES.values())!r}"
        )
    if target.suffix == ".safetensors":
        if layout is None:
            raise ValueError(f"{target} is a single file: say --layout, one of {layouts()!r}")
        save_single_file(components, target, layout, family)
        return [f"{target}: {', '.join(components)} in layout {layout}"]
    if layout not in (None, "diffusers"):
        raise ValueError(
            f"{target} is a folder, which only layout 'diffusers' has: let its name end with "
            f".safetensors for layout {layout!r}"
        )
    return write_folder(components, target, family)


def read_folder(folder: Path, family: str | None) -> tuple[str | None, dict[str, Component]]:
    """Open the components of a diffusers folder, or the one component that it is.

    Raises:
        FileNotFoundError: A component is not complete, or there is none.
        ValueError: The class of a component is not known.
    """
    if (folder / "config.json").is_file():
        name, shown = _network(folder)
        return family or shown, {name: Component(*load_component(folder))}
    networks = [folder / n for n in ("transformer", "unet", "vae") if (folder / n).is_dir()]
    components = {}
    for path in networks:
        name, shown = _network(path)
        family = family or shown
        components[name] = Component(*load_component(path))
    for kind, path in _text_encoders(folder, family).items():
        components[kind] = Component(*load_component(path))
    if not components:
        raise FileNotFoundError(
            f"{folder} has neither a config.json nor a folder transformer, unet or vae: give a "
            "diffusers folder"
        )
    return family, components


def write_folder(components: Mapping[str, Component], folder: Path, family: str) -> list[str]:
    """Write each component into its folder, and say which."""
    homes = {part.encoder: part.kinds for part in text_parts(family)}
    written = []
    for name, (config, source) in components.items():
        home = next((home for home, kinds in homes.items() if name in kinds), name)
        stem = DIFFUSERS_STEM if home == name else TRANSFORMERS_STEM
        save_component(source, config, folder / home, stem)
        written.append(f"{folder / home}: {name}")
    return written


def layouts() -> list[str]:
    """List the layouts of single files."""
    return [*WRITTEN, "diffusers"]


def _network(folder: Path) -> tuple[str, str | None]:
    """Name a component as in the section `model`, and the family that its class shows."""
    name = read_config(folder).get("_class_name")
    if name in AUTOENCODERS:
        return "vae", "flux2" if name == "AutoencoderKLFlux2" else None
    if name not in CLASSES:
        raise ValueError(
            f"{folder}: config.json names class {name!r}; known are "
            f"{sorted((*CLASSES, *AUTOENCODERS))!r}: give such a component, or a whole model"
        )
    return denoiser(CLASSES[name]), CLASSES[name]


def _text_encoders(folder: Path, family: str | None) -> dict[str, Path]:
    """Find the text encoders of a model's folder by their kinds."""
    found = {}
    for part in text_parts(family) if family else ():
        path = folder / part.encoder
        if path.is_dir():
            architecture = (read_config(path).get("architectures") or [None])[0]
            found[DECODERS.get(architecture, part.kinds[0])] = path
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; errors are one sentence."""
    parser = argparse.ArgumentParser(prog="python -m modelzoo.checkpoints.convert")
    parser.add_argument("source", type=Path, help="a .safetensors file or a diffusers folder")
    parser.add_argument("target", type=Path, help="a .safetensors file or a folder, to be made")
    parser.add_argument("--layout", choices=layouts(), help="of a single file")
    parser.add_argument("--family", choices=sorted(CLASSES.values()), help="if not evident")
    given = parser.parse_args(arguments)
    try:
        written = convert(given.source, given.target, given.layout, given.family)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    print("\n".join(written))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
