"""For mkdocs: what a page shows of files outside of docs/.

A link to one has no page to go to, and becomes the file's path. A notebook is shown cell by cell where a comment names
it, ``<!-- notebook: PATH -->``, its own title left out.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_OUTSIDE = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>\.\./[^)\s]+)\)")
_NOTEBOOK = re.compile(r"<!-- notebook: (?P<path>\S+) -->")


def on_page_markdown(markdown: str, config: Any = None, **_: Any) -> str:
    """Called by mkdocs for each page."""
    def written(match: re.Match[str]) -> str:
        text, path = match["text"], match["path"].removeprefix("../")
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"

    if config is not None:
        root = Path(config["config_file_path"]).parent
        markdown = _NOTEBOOK.sub(lambda match: cells(root / match["path"]), markdown)
    return _OUTSIDE.sub(written, markdown)


def cells(notebook: Path) -> str:
    """A notebook as Markdown; links to pages lead from docs/ instead of the notebook's own folder."""
    made = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            made.append(f"```python\n{text}\n```")
        else:
            made.append(re.sub(r"\A# .*\n*", "", text).replace("](../docs/", "]("))
    return "\n\n".join(made)
