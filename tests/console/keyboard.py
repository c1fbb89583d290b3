"""Pages are used by keyboard alone, and what has the focus can be seen."""

from tests.support.browser import Tab


async def go(tab: Tab, selector: str, key: str = "Enter") -> None:
    """Move the focus to an element by Tab, and press a key there."""
    await tab.tab_to(selector)
    assert await tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", selector
    await tab.key(key)


async def enter(tab: Tab, selector: str, text: str) -> None:
    """Move the focus to a field by Tab, and type a text."""
    await tab.tab_to(selector)
    await tab.call("Input.insertText", text=text)
