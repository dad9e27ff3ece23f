"""For mkdocs: a link from a page to a file outside of docs/ has no page to go to, and becomes the file's path."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>\.\./[^)\s]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    def written(match: re.Match[str]) -> str:
        text, path = match["text"], match["path"].removeprefix("../")
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"

    return _OUTSIDE.sub(written, markdown)
