"""What the commands print to stdout."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

from siftune._common.terminal import encodable, unprotected
from siftune._common.text import counted, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from siftune.experiments.choosing.finished import Chosen
    from siftune.experiments.finished import Experiment
    from siftune.export import Exported
    from siftune.pipeline.inspection import Inspection
    from siftune.pipeline.run import Run

LEFT_OUT_SHOWN = 20
"""How many rows that an export leaves out are listed."""


def print_run(run: Run) -> None:
    """The subset in a few lines, and where everything is."""
    from siftune._common.files import read_json

    manifest = read_json(run.folder / "manifest.json")
    method, data, budget = manifest["method"], manifest["data"], manifest["budget"]
    print(f"selected {budget['rows']:,} of {data['usable_rows']:,} usable rows ({budget['tokens']:,} tokens) "
          f"with {one_line(method['representation'])} + {one_line(method['selector'])}")
    _print_groups(run)
    print(f"subset:  {one_line(run.folder / 'selected.jsonl')}")
    print(f"report:  {one_line(run.report)}")


def _print_groups(run: Run) -> None:
    import pyarrow.parquet as pq

    scores = pq.read_table(run.folder / "scores.parquet", columns=["group", "selected"]).to_pydict()
    pool = Counter(scores["group"])
    chosen = Counter(g for g, s in zip(scores["group"], scores["selected"], strict=True) if s)
    for group, count in chosen.most_common(8):
        print(f"  {count:5,} of {pool[group]:6,}  {one_line(group)}")
    if len(chosen) > 8:
        print(f"  ... and {len(chosen) - 8} more groups; {len(pool) - len(chosen)} groups of the pool have none")


def print_comparison(finished: Experiment) -> None:
    """The short table and the verdict; what failed goes to stderr."""
    from siftune.experiments.text import legend, short_table

    print(short_table(finished.results))
    print()
    print(finished.verdict)
    print(f"{legend(finished.results)} Lower loss is better.")
    print(f"subset:  {one_line(finished.folder / 'selected.jsonl')}")
    print(f"report:  {one_line(finished.report)}")
    _print_failures(finished)


def print_choice(chosen: Chosen) -> None:
    """What to take and why, every arm in a line, and where everything is."""
    from siftune._common.text import visible
    from siftune.report.choice import arms_table

    print(visible(arms_table(chosen.results)))
    print()
    print(visible(chosen.verdict))
    if chosen.run is not None:
        print(f"subset:  {chosen.folder / 'selected.jsonl'}")
    print(f"results: {chosen.file}")
    print(f"report:  {chosen.report}")
    if chosen.results.failed:
        import sys

        told = "\n".join(f"failed: {name}: {why}" for name, why in chosen.results.failed.items())
        print(f"{visible(told)}\nhint: run the same command again to try these again", file=sys.stderr)


def print_study(finished: Experiment) -> None:
    """The tables of a study; what failed goes to stderr."""
    from siftune.experiments.text import tables

    print(tables(finished.results))
    print(f"\nresults: {one_line(finished.file)}")
    print(f"report:  {one_line(finished.report)}")
    _print_failures(finished)


def _print_failures(finished: Experiment) -> None:
    from siftune.experiments.text import failures

    if finished.failed:
        print(f"{failures(finished.results)}\nhint: run the same command again to try these again", file=sys.stderr)


def print_files(paths: Iterable[Path]) -> None:
    """What was written, a path a line."""
    for path in paths:
        print(one_line(path))


def print_export(written: Exported) -> None:
    """The files, and what a trainer made of them; how to use them goes to stderr."""
    print_files(written.files)
    for warning in written.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    if written.left_out:
        print(f"warning: {counted(len(written.left_out))} left out, which the model's template cannot render:",
              file=sys.stderr)
        for row in written.left_out[:LEFT_OUT_SHOWN]:
            print(f"  {one_line(row.id)}: {one_line(row.reason)} {one_line(row.detail)}", file=sys.stderr)
        if len(written.left_out) > LEFT_OUT_SHOWN:
            print(f"  ... and {len(written.left_out) - LEFT_OUT_SHOWN:,} more", file=sys.stderr)
    if written.note:
        print(written.note, file=sys.stderr)
    if written.checked:
        print(written.checked)


def print_inspection(found: Inspection) -> None:
    """What `siftune inspect` shows: counts, then the first rows with what is supervised of them in colour, or in
    brackets where there are no colours, as in a file."""
    from rich.console import Console

    from siftune.data.inspect import mask_preview

    # Colours are escape sequences: all else is made visible first.
    encoding = getattr(sys.stdout, "encoding", None)
    console = Console(highlight=False, file=unprotected(sys.stdout))
    plain = console.color_system is None or console.no_color
    mark = "[[so]]" if plain else "(green)"
    for line in found.lines():
        console.print(encodable(line, encoding), markup=False, soft_wrap=True)
    for row, rendered in zip(found.examples.rows[: found.show], found.examples.rendered[: found.show], strict=True):
        head = f"{one_line(row.where)}  id {one_line(row.id)}"
        console.print(encodable(f"\n{head}  {len(rendered)} tokens, {rendered.supervised} supervised {mark}", encoding),
                      style="bold", markup=False, soft_wrap=True)
        console.print(mask_preview(rendered, found.tokenizer, brackets=plain, encoding=encoding), soft_wrap=True)
