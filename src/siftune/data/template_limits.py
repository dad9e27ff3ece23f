"""How much time and memory a chat template may take: it is a program, and it comes with a model.

Templates run inside Jinja's sandbox, which keeps them from files and code, and not from looping or from doubling a text
until the memory is full. Two guards, of which ordinary templates notice nothing:

* A thread looks, some times a second, whether a rendering has taken more processor time than any conversation needs,
  and ends it with an exception in the thread that renders.
* A template that can make more text than it is given (that multiplies, or builds texts up in a loop) is rendered under
  a limit on the memory of the process, where the operating system has one that can be set (Linux).

A power (``**``) of anything but small numbers is refused before the template runs: Python would work on it for hours
without looking at any signal, and Jinja does so already when it compiles.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from siftune._common.errors import ModelError, first_line

SECONDS = 2.0
"""Processor time of one rendering."""

BYTES = 1_000_000_000
"""Memory of one rendering, beside what the process has already."""

_LARGEST = 1_000_000  # characters of a template; the longest in use have some 20,000
_SMALL = 64
_GROWING_FILTERS = frozenset(("center", "indent", "replace", "join", "format", "batch", "slice", "list", "map",
                              "tojson", "urlize", "wordwrap", "xmlattr", "pprint"))

T = TypeVar("T")


class Overrun(Exception):  # noqa: N818 - it names what happened
    """A template took more than it may."""


class _Stop(BaseException):
    """Raised inside a rendering by the thread that watches it; a template can catch nothing of it."""


def checked(source: object) -> bool:
    """Whether a template can make more text than it is given.

    Args:
        source: the Jinja source. What cannot be parsed is left to the rendering, which says so of every row.

    Raises:
        ModelError: it is no text that can be written, too long, or takes a power of large numbers.
    """
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if not isinstance(source, str):
        raise ModelError(f"the tokenizer's chat template is a {type(source).__name__}", where="--model",
                         hint="it should be a text, in tokenizer_config.json or chat_template.jinja")
    try:
        source.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ModelError("the tokenizer's chat template holds half of a surrogate pair", where="--model",
                         why=f"At character {error.start}.", hint="write it anew in UTF-8") from error
    if len(source) > _LARGEST:
        raise ModelError(f"the tokenizer's chat template has {len(source):,} characters", where="--model",
                         why=f"At most {_LARGEST:,} are read.", hint="check the tokenizer's files")

    class Generation(Extension):
        """``{% generation %}``, which transformers reads with an extension of its own."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(extensions=[loopcontrols, Generation], optimized=False)
    try:
        tree = environment.parse(source)
    except (TemplateError, RecursionError):
        return True
    except Exception as error:
        raise ModelError("the tokenizer's chat template cannot be parsed", where="--model", why=first_line(error),
                         hint="check the tokenizer's files") from error
    for power in tree.find_all(nodes.Pow):
        if not all(isinstance(side, nodes.Const) and isinstance(side.value, int) and abs(side.value) <= _SMALL
                   for side in (power.left, power.right)):
            raise ModelError("the tokenizer's chat template takes a power", where="--model",
                             why=f"Line {power.lineno} has ** with other than small numbers, which may never end.",
                             hint="use another model's tokenizer, or take the power out of its chat template")
    grown = (*tree.find_all((nodes.Mul, nodes.Mod)),
             *(found for found in tree.find_all(nodes.Filter) if found.name in _GROWING_FILTERS),
             *(call for call in tree.find_all(nodes.Call)
               if not (isinstance(call.node, nodes.Getattr) and call.node.attr in _HARMLESS)
               and not (isinstance(call.node, nodes.Name) and call.node.name in _HARMLESS)))
    built = [inside for assigned in tree.find_all(nodes.Assign)
             for inside in assigned.find_all((nodes.Add, nodes.Concat))]
    nested = any(next(loop.find_all(nodes.For), None) is not None for outer in tree.find_all(nodes.For)
                 for loop in outer.body)
    return bool(grown or built or nested or len(source) > 100_000)


_HARMLESS = frozenset(("raise_exception", "namespace", "strip", "lstrip", "rstrip", "startswith", "endswith", "split",
                       "upper", "lower", "title", "items", "keys", "values", "get", "strftime_now", "siftune_block"))


def within_limits(render: Callable[[], T], *, grows: bool) -> T:
    """The result of a rendering.

    Args:
        render: renders once.
        grows: whether its memory is limited too.

    Raises:
        Overrun: it took too much time, or memory.
    """
    most = ""
    for _ in range(2):
        try:
            return _limited(render, grows)
        except _Stop:
            most = f"{SECONDS:.0f} seconds"
            break
        except MemoryError:
            most = f"{BYTES / 1e9:.0f} GB"
        if not _MEMORY.fresh():  # something else may have grown since the process was measured: again, to be sure
            continue
        break
    # Not from inside the handlers: an exception remembers what it came from, with all that the template had made.
    raise Overrun(f"the chat template takes more than {most}")


def _limited(render: Callable[[], T], grows: bool) -> T:
    token = _WATCH.begin()
    try:
        if not grows:
            return render()
        with _MEMORY:
            return render()
    finally:
        _WATCH.end(token)


class _Watch:
    """The renderings that go on, by thread, and one thread that looks after all of them while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._going: dict[int, tuple[object, float]] = {}
        self._watcher: threading.Thread | None = None

    def begin(self) -> object:
        token = object()
        self._going[threading.get_ident()] = token, _spent(threading.get_ident())
        watcher = self._watcher
        if watcher is None or not watcher.is_alive():
            with self._lock:
                if self._watcher is None or not self._watcher.is_alive():  # never begun, or lost in a fork
                    self._watcher = threading.Thread(target=self._look, name="siftune-templates", daemon=True)
                    self._watcher.start()
        return token

    def end(self, token: object) -> None:
        thread = threading.get_ident()
        with self._lock:
            if self._going.get(thread, (None,))[0] is token:
                del self._going[thread]
            else:  # told to stop in this very moment: what has not arrived yet is taken back
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)

    def _look(self) -> None:
        while True:
            time.sleep(0.2)
            with self._lock:
                for thread, (_, since) in list(self._going.items()):
                    if _spent(thread) - since > SECONDS:
                        del self._going[thread]
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(_Stop))


def _spent(thread: int) -> float:
    """Seconds of processor time of a thread; of the clock, where the system does not tell."""
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    except (AttributeError, OSError):
        return time.monotonic()


_WATCH = _Watch()


class _MemoryLimit:
    """A limit on the address space of the process, above what it has now, or had a moment ago."""

    def __init__(self) -> None:
        self._size, self._when, self._exact = 0, -1.0, False

    def __enter__(self) -> None:
        self._before: tuple[int, int] | None = None
        if not sys.platform.startswith("linux"):
            return
        import resource

        now = time.monotonic()
        try:
            self._exact = now - self._when > _RECENT
            if self._exact:
                self._size = int(Path("/proc/self/statm").read_bytes().split(None, 1)[0]) * resource.getpagesize()
                self._when = now
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            if soft == resource.RLIM_INFINITY or self._size + BYTES < soft:
                resource.setrlimit(resource.RLIMIT_AS, (self._size + BYTES, hard))
                self._before = soft, hard
        except (OSError, ValueError):  # not to be had here
            return

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, self._before)

    def fresh(self) -> bool:
        """Whether the limit that has just failed was above a measurement of the same moment; the next one will be."""
        fresh, self._when = self._exact, -1.0
        return fresh


_RECENT = 0.2  # seconds for which a measurement of the process serves: asking the system takes as long as a rendering
_MEMORY = _MemoryLimit()
