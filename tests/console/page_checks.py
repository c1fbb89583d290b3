"""Checks of a page in a real browser, as scripts that return what is wrong with it."""

import base64
import os
import re
from pathlib import Path

from tests.support.browser import Tab

LIGHT = "--disable-features=BackForwardCache,ProactivelySwapBrowsingInstance,AutofillServerCommunication"
"""Pages that were left are not kept, and the next one is shown by the same process: a fifth less CPU time."""
NARROWEST = 320
"""A page of 1280 at 400 % (WCAG 2.2, 1.4.10): nothing is wider than this."""
WIDE = 1280
ZOOMED = (640, 2)
"""The width of a page of 1280 at 200 % (WCAG 2.2, 1.4.4), and the pixels of the screen in one of it."""
OBJECTED = ((1280, "light"), (390, "dark"))
"""The widths and themes that axe looks at."""
SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "light": ((NARROWEST, 1), ZOOMED, (390, 1), (WIDE, 1)),
    "dark": ((WIDE, 1), (390, 1)),
}
"""By theme, the widths of pages, each with its zoom. What fits does not depend on the theme."""

CUT = """(() => {
  const found = [], wider = document.documentElement.scrollWidth - innerWidth;
  if (wider > 0) found.push(`${wider} px wider than the window`);
  for (const element of document.body.querySelectorAll(":not(input, select, textarea, svg, svg *)")) {
    const right = element.scrollWidth - element.clientWidth > 1;
    const down = element.scrollHeight - element.clientHeight > 1;
    if (element.clientWidth <= 1 || !(right || down) || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), cuts = (value) => /hidden|clip/.test(value);
    if (right && cuts(style.overflowX) && style.textOverflow !== "ellipsis" || down && cuts(style.overflowY))
      found.push(`${element.tagName}.${element.className} is cut: ${element.textContent.slice(0, 40)}`);
  }
  return found;
})()"""
"""What is cut off or needs a scroll bar along the page (WCAG 2.2, 1.4.4 and 1.4.10)."""
FAINT = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      known.set(colour, [r, g, b, a / 255]);
    }
    return known.get(colour);
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const ground = (element) => {
    const own = rgba(getComputedStyle(element).backgroundColor);
    if (own[3] === 1) return own;
    return over(own, element.parentElement ? ground(element.parentElement) : rgba("Canvas"));
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    const below = ground(element), text = over(rgba(getComputedStyle(element).color), below);
    const [dark, bright] = [light(below), light(text)].sort((a, b) => a - b);
    const contrast = (bright + 0.05) / (dark + 0.05);
    if (contrast < 4.5) found.add(`${element.tagName}.${element.className} ${contrast.toFixed(2)}`);
  }
  return [...found];
})()"""
"""Texts that are too faint on their ground: below a contrast of 4.5:1 (WCAG 2.2, 1.4.3)."""


VIOLATIONS = """axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']}).then(
    ({violations}) => violations.map(({id, nodes}) => [id, nodes.slice(0, 3).map((node) => node.html)]))"""


async def resize(tab: Tab, width: int, scale: int = 1) -> None:
    """Give the window this width, in pixels of the page. With `scale`, each is so many of the screen."""
    size = {"width": width, "height": 900, "deviceScaleFactor": scale}
    await tab.call("Emulation.setDeviceMetricsOverride", **size, mobile=False)


async def capture(tab: Tab, name: str) -> None:
    """Store a picture of the page in the folder that a variable names; ids are left out of its name."""
    if folder := os.environ.get("INTERLINK_SCREENSHOTS"):
        shot = await tab.call("Page.captureScreenshot", format="webp", quality=45)
        name = re.sub(r"[a-z]{2,4}_[0-9a-f]{32}", "one", name).replace("/", "-")
        (Path(folder) / f"{name}.webp").write_bytes(base64.b64decode(shot["data"]))
