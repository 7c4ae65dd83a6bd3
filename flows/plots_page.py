"""Write the page that `dvc plots show` fills, with its scripts inside, so that it shows offline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import vl_convert

PAGE = Path(".dvc/plots_page.html")  # git-ignored: 900 kB of scripts that a package carries
TEMPLATE = """<!DOCTYPE html>
<html>
<head>
    <meta charset="utf-8">
    {{refresh_tag}}
    <title>diffbase: plots</title>
    <script>(() => {{{scripts}}})();</script>
    <style>
        body {{ font-family: sans-serif; margin: 2rem; }}
        table {{ border-spacing: 15px; }}
        img {{ max-width: 100%; }}
    </style>
</head>
<body>
    {{plot_divs}}
</body>
</html>
"""


def write(page: Path = PAGE) -> None:
    """Write the page and tell this clone's DVC to use it."""
    scripts = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    page.write_text(TEMPLATE.format(scripts=scripts), encoding="utf-8")
    dvc = str(Path(sys.executable).with_name("dvc"))
    subprocess.run(
        [dvc, "config", "--local", "--quiet", "plots.html_template", page.name], check=True
    )


if __name__ == "__main__":
    write()
