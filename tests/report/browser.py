"""Chromium as a camera: a page as a picture, and as the document that it becomes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--force-color-profile=srgb",
)
LIGHT, DARK = (f"--blink-settings=preferredColorScheme={scheme}" for scheme in (1, 0))


def look(page: Path, folder: Path, size: tuple[int, int], scheme: str = LIGHT) -> Image.Image:
    """Return the page as a window of `size` pixels shows it."""
    shot = folder / f"shot-{size[0]}x{size[1]}.png"
    shot.unlink(missing_ok=True)
    _start(page, folder, scheme, f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}")
    assert shot.is_file(), "Chromium wrote no screenshot"
    return Image.open(shot).convert("RGB")


def document(page: Path, folder: Path) -> str:
    """Return the HTML of the document that the page became."""
    return _start(page, folder, "--dump-dom")


def _start(page: Path, folder: Path, *flags: str) -> str:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail(
            "the report is looked at in Chromium, which is not installed: "
            "apt-get install --no-install-recommends chromium"
        )
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [chromium, *FLAGS, profile, *flags, page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout
