"""One HTML file that opens anywhere: plotly.js, styles, scripts and data written into it.

The page's content policy forbids loading anything else. What the reports share lies in
``report_page``: the style sheet and ``common.js``.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import report_style as style

PAGE = Path(__file__).with_name("report_page")
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
FAILURE = """addEventListener("error", (event) => {
  const note = document.getElementById("failure");
  note.hidden = false;
  note.textContent = "A chart could not be drawn; the tables are complete. " + event.message;
});"""


def document(title: str, body: str, data: Any, scripts: Sequence[Path], css: str = "") -> str:
    """The whole page: ``body`` inside <main>, ``data`` as JSON for the scripts, in that order.

    ``body`` is HTML and must be escaped already; ``title`` is text. ``css`` follows the shared
    style sheet. Raises ValueError for data with NaN or infinity in it.
    """
    from plotly.offline import get_plotlyjs

    code = "\n".join(path.read_text("utf-8") for path in (PAGE / "common.js", *scripts))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(title)}</title>
<style>{_styles()}{css}</style>
</head>
<body>
<main>
<p id="failure" role="alert" hidden></p>
<noscript><p class="missing">Charts need JavaScript; the tables below are complete.</p></noscript>
{body}
</main>
<script type="application/json" id="data">{embed(data)}</script>
<script>{FAILURE}</script>
<script>{get_plotlyjs()}</script>
<script>{code}</script>
</body>
</html>
"""


def embed(value: Any) -> str:
    """JSON that cannot end a script element, whatever the strings in it say.

    >>> embed("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def finite(value: Any, digits: int = 7) -> Any:
    """Nested lists or an array of numbers, rounded for the page; None where not finite.

    >>> finite(np.array([0.123456789, np.inf]))
    [0.1234568, None]
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [finite(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _styles() -> str:
    """The style sheet, with the hues for light and for dark pages."""
    light, dark = style.hue_variables(style.HUES), style.hue_variables(style.HUES_DARK)
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    return f":root {{ {light} }}\n{dark}\n{(PAGE / 'page.css').read_text('utf-8')}"
