"""Headless Chromium for tests: a page is opened, a probe in it writes what it finds.

The probe ends with an element ``<pre id="probe">`` holding JSON; ``--dump-dom`` brings it back.
"""

import html
import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no browser: none of {', '.join(NAMES)}"
)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--virtual-time-budget=6000",
    "--dump-dom",
)

EARLY = """<script>window.refused = [];
document.addEventListener("securitypolicyviolation", (e) => refused.push(e.violatedDirective));
</script>"""

FRAME = """<!doctype html><body><pre id="probe"></pre>
<script>addEventListener("message", (event) => {
  document.getElementById("probe").textContent = event.data;
});</script>
<iframe src="report.html" width="390" height="900" style="border: 0"></iframe></body>"""


def browse(path, folder, *flags):
    """What the probe found after the page's scripts ran."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="probe">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, re.findall(r'<p id="failure".*?</p>', done.stdout, re.DOTALL)
    return json.loads(html.unescape(found[1]))
