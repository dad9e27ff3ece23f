"""Whether the hub answers, found out in seconds: its clients try again for most of a minute before they give up."""

from __future__ import annotations

import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 6.0
"""Seconds that the hub has to answer at all, looking up its name included."""

_REMEMBERED = 300.0

_asked: dict[str, tuple[float, str | None]] = {}


def silence_of_hub() -> str | None:
    """Why the hub cannot be used; None where it answers, with whatever, or no request would be made (offline mode).

    Asked once in five minutes. ``HF_ENDPOINT`` and proxies are those that its clients use.
    """
    import huggingface_hub.constants as constants

    if constants.HF_HUB_OFFLINE:
        return None
    when, known = _asked.get(constants.ENDPOINT, (0.0, None))
    if constants.ENDPOINT in _asked and time.monotonic() - when < _REMEMBERED:
        return known
    found: list[str | None] = [f"no answer within {PATIENCE:.0f} seconds"]
    # A look-up of a name has no time limit of its own: the thread that waits for it is left behind.
    asking = threading.Thread(target=_ask, args=(constants.ENDPOINT, found), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    answer = found[-1]
    _asked[constants.ENDPOINT] = time.monotonic(), answer
    return answer


def _ask(endpoint: str, found: list[str | None]) -> None:
    import urllib.error
    import urllib.request

    answer: str | None = None
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PATIENCE - 1):
            pass
    except urllib.error.HTTPError:
        pass  # refused, but answered
    except urllib.error.URLError as error:
        # Certificates are the clients' own matter: they may know more of them.
        answer = None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, ValueError) as error:
        answer = str(error) or type(error).__name__
    except Exception:  # no HTTP, but an answer
        pass
    found.append(answer)


@contextmanager
def hub_or_cache() -> Iterator[str | None]:
    """For the time of the block the hub's clients look only at what they have kept, where the hub does not answer.

    Yields:
        Why it does not; None where it does.
    """
    silence = silence_of_hub()
    if silence is None:
        yield None
        return
    changed: list[tuple[Any, str, Any]] = []
    for module, names in (("huggingface_hub.constants", ("HF_HUB_OFFLINE",)),
                          ("datasets.config", ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")),
                          ("transformers.utils.hub", ("_is_offline_mode",))):
        for name in names:
            if hasattr(sys.modules.get(module), name):
                changed.append((sys.modules[module], name, getattr(sys.modules[module], name)))
    try:
        for module, name, _ in changed:
            setattr(module, name, True)
        yield silence
    finally:
        for module, name, before in changed:
            setattr(module, name, before)


def not_reached(silence: str) -> str:
    """The reason of an error, where the hub has not answered and nothing was kept."""
    import huggingface_hub.constants as constants

    return f"The hub at {constants.ENDPOINT} does not answer ({silence}), and it is not among what was kept before."
