"""Pages in headless Chromium: a script at the end of the page acts as its user and reports."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from patching.views.page import source_hash

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

_FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update --enable-logging=stderr
    --window-size=1400,900
""".split()

# --dump-dom draws no frames
_FRAMES = "window.requestAnimationFrame = (draw) => setTimeout(draw, 0);"
_AT_ONCE = "window.requestAnimationFrame = (draw) => draw();"
_ANSWER = """
const least = (act) => Math.min(...[0, 1, 2, 3, 4].map((i) => {
  const begun = performance.now();
  act(i);
  $("#stage").firstElementChild.getBoundingClientRect();
  return performance.now() - begun;
}));
const busy = () => { let x = 0; for (let i = 0; i < 1e7; i += 1) x += Math.sqrt(i); window.x = x; };
const answer = (act) => least(act) / Math.max(1, least(busy) / 15);
const change = (selector, value, event) => {
  $(selector).value = value;
  $(selector).dispatchEvent(new Event(event, { bubbles: true }));
};
"""
_HELP = """
const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];
const lines = (selector, layer = ".lines:not(.lit)") =>
  $$(`#stage > svg ${layer} ${selector}`)
    .reduce((n, path) => n + path.getAttribute("d").split("M").length - 1, 0);
const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
const type = async (element, value, event) => {
  element.value = value;
  element.dispatchEvent(new Event(event, { bubbles: true }));
  await frame();
};
const press = async (element, key) => {
  element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  await frame();
};
const enter = (element, kind = "pointerenter") =>
  element.dispatchEvent(new PointerEvent(kind, { clientX: 300, clientY: 300 }));
const click = async (element) => {
  element.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  await frame();
};
"""


@dataclass(frozen=True)
class Visit:
    """What the script reported, what the console said, the page when it was done."""

    said: dict[str, object]
    console: list[str]
    dom: str


def visit(content: str, script: str, folder: Path, *, address: str = "") -> Visit:
    """Open a page, run a script that fills `said`, and give back what came of it."""
    return _visit(content, f"await frame(); {script}", folder, _FRAMES, address)


def timed(content: str, script: str, folder: Path) -> Visit:
    """The same by a real clock, while the page loads: frames come at once, nothing can be awaited.

    `answer(act)` is the time in milliseconds that a page takes for something, its layout included:
    the least of five, over how much longer than the 15 ms of a free core a loop takes meanwhile.
    """
    return _visit(content, f"{_ANSWER} {script}", folder, _AT_ONCE, "")


def _visit(content: str, script: str, folder: Path, frames: str, address: str) -> Visit:
    run = (
        f"(async () => {{ {_HELP} const said = {{}}; try {{ {script} }}"
        " catch (error) { said.error = String(error.stack); }"
        " const out = document.createElement('pre'); out.id = 'said';"
        " out.textContent = JSON.stringify(said); document.body.append(out); })();"
    )
    path = folder / "visited.html"
    page = content.replace("<head>", f"<head><script>{frames}</script>", 1)
    page = page.replace("script-src ", f"script-src {source_hash(run)} ", 1)  # ours may run as well
    page = page.replace("</body>", f"<script>{run}</script></body>")
    path.write_text(page, encoding="utf-8")
    clock = [] if frames == _AT_ONCE else ["--virtual-time-budget=4000"]
    done = browse([*clock, "--dump-dom", path.as_uri() + address], folder)
    found = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the script did not come to its end: {done.stderr[-2000:]}"
    said = json.loads(html.unescape(found[1]))
    assert "error" not in said, said["error"]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(said, console, done.stdout)


def browse(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *_FLAGS, profile, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
