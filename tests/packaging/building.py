"""The project's distributions, built offline by the build backend itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT = (".git", ".venv*", "*.egg-info", "__pycache__", "*.pyc", ".*_cache", ".hypothesis", "build", "dist", "runs",
        "site")
"""What is not of the project: what `.gitignore` names, and git's own folder."""

_BUILD = "import sys; from setuptools import build_meta; to = sys.argv[1]; build_meta.build_sdist(to); " \
         "build_meta.build_wheel(to)"  # the first call leaves another sys.argv


def build(folder: Path) -> Path:
    """Build sdist and wheel from a copy of the project, since a build leaves files behind; the folder they are in."""
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*LEFT), symlinks=True)
    done = subprocess.run([sys.executable, "-c", _BUILD, str(folder / "dist")], cwd=folder / "source",
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "dist"
