"""Chat templates for training, of model families whose own template does not say what the assistant wrote.

They are TRL's (see ``chat_templates/NOTICE``): the family's template with ``{% generation %}`` markers, mended where
the original drops what is to be trained on, such as the thoughts of earlier turns. TRL renders with them when it trains
on assistant turns only, so that a row has the same tokens and mask here as there.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import blake2b
from pathlib import Path

_FOLDER = Path(__file__).parent / "chat_templates"


def training_template(original: str) -> str | None:
    """The training template of a chat template that is known character by character, else ``None``."""
    name = family(original)
    return None if name is None else _read(name)


def family(original: str) -> str | None:
    """The family of a chat template that is known character by character, as TRL calls it, else ``None``."""
    return families().get(blake2b(original.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest())


@cache
def families() -> dict[str, str]:
    """Names of the known families by the BLAKE2b (128 bits, hex) of their original template."""
    return json.loads((_FOLDER / "index.json").read_text(encoding="utf-8"))


@cache
def _read(name: str) -> str:
    return (_FOLDER / f"{name}_training.jinja").read_text(encoding="utf-8")
