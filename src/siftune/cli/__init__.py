"""The command line: parse, call, print. Results go to stdout, progress and warnings to stderr, mistakes end with 2."""

from siftune.cli.app import main

__all__ = ["main"]
