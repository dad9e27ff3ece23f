"""No expression that reads text from outside takes more than linear time: none hangs on a long run of anything."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "siftune"
LENGTH = 200_000
SHORTER = 20_000
"""Of runs other than spaces; a quadratic expression takes seconds for each of them already."""

RUNS = (" ", "\t", "\n", "a", "0", "=", ".", ",", "-", "/", "{%", "(A) ", "1.", "~/", "=..", ",prompt=", "\u0301")
WRAPPED = ("{}", "1{}x", "a={}", "- {}")


SEARCHING = ("search", "sub", "subn", "split", "findall", "finditer")


def patterns() -> dict[str, tuple[re.Pattern[str], bool]]:
    """Every compiled expression of text in a module of siftune, and every one that is written into a call of ``re``;
    and whether it is searched for, or only held against the beginning or the whole of a text."""
    found: dict[str, tuple[re.Pattern[str], bool]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "re." not in text:
            continue
        name = ".".join(("siftune", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        named = {}
        if "re.compile" in text:
            module = importlib.import_module(name)
            for key, value in vars(module).items():
                values = value if isinstance(value, tuple) else (value,)
                for one in values:
                    if isinstance(one, re.Pattern) and isinstance(one.pattern, str):
                        anchored = any(f"{key}.{use}(" in text for use in ("match", "fullmatch"))
                        searched = not anchored or any(f"{key}.{use}(" in text for use in SEARCHING)
                        named[one.pattern] = f"{name}.{key} {one.pattern}", (one, searched)
        for call in ast.walk(ast.parse(text)):
            if (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args
                    and isinstance(call.func.value, ast.Name) and call.func.value.id == "re"
                    and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
                    and call.args[0].value not in named):
                searched = call.func.attr in (*SEARCHING, "compile")
                found[f"{name}:{call.lineno}"] = re.compile(call.args[0].value), searched
        found |= dict(named.values())
    return found


def go_through() -> None:
    """Every expression on every long text; called in a process of its own, which says how far it has come."""
    for name, (pattern, searched) in patterns().items():
        print(ascii(name), flush=True)
        for run in RUNS:
            long = run * ((LENGTH if run == " " else SHORTER) // len(run))
            for wrapped in WRAPPED:
                text = wrapped.format(long)
                pattern.fullmatch(text)
                pattern.match(text)
                if searched:
                    pattern.search(text)
                if searched and len(run) == 1:
                    pattern.sub("", text)


def test_there_are_expressions_to_look_at() -> None:
    assert len(patterns()) >= 20


def test_no_expression_hangs_on_a_long_run_of_anything() -> None:
    """A quadratic one would take an hour for all of these; the limit is far above what linear ones take anywhere."""
    code = "from tests.test_linear import go_through; go_through()"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False,
                              cwd=Path(__file__).parents[1])
    except subprocess.TimeoutExpired as error:
        last = (error.stdout or b"").decode().splitlines()[-1:]
        pytest.fail(f"it hangs in {last}")
    assert done.returncode == 0, done.stderr


def test_flags_of_200000_characters_are_refused_or_read_in_one_pass() -> None:
    """In a process, since a hang cannot be told from inside."""
    code = f"""
from itertools import product
from siftune._common.errors import SiftuneError
from siftune.config.owned import read_sets
from siftune.config.plain_yaml import load_yaml
from siftune.data.columns import named_columns
from siftune.data.limits import Limits
from siftune.data.sources import find_sources
from siftune.pipeline.select import read_quota_texts
from siftune.pipeline.strata import by_score
from siftune.selectors.core.budget import Budget, ResolvedBudget
from siftune.selectors.core.quotas import read_quotas
runs = [one * {LENGTH} for one in (" ", "=", ".", "0", "k", "%")]
for long, form in product(runs, ("LONG", "1LONGx", "5LONG%x", "a=LONG", "a=LONG..LONG")):
    text = form.replace("LONG", long)
    for call in (lambda: Budget.parse(text), lambda: by_score(text),
                 lambda: read_quotas(read_quota_texts([text]), ResolvedBudget("rows", 5, "5")),
                 lambda: named_columns([text]), lambda: Limits.parse([text]),
                 lambda: read_sets([text], ["less", "top-k"]), lambda: load_yaml(text, "x"),
                 lambda: find_sources([text])):
        try:
            call()
        except SiftuneError as error:
            assert len(str(error)) < 20_000
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
