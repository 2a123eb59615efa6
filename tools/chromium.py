"""The Chromium of this machine: the tools print and measure the pages in it, and the tests look at them."""

import shutil
import sys
from typing import Any

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def launch(playwright: Any) -> Any:
    """A browser for a tool, which ends with a sentence where there is none."""
    if PATH is None:
        sys.exit("The pages are shown by Chromium, and there is none on this machine.")
    return playwright.chromium.launch(executable_path=PATH, args=["--no-sandbox", "--disable-gpu"])
