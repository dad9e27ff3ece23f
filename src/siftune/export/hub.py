"""``siftune export --to hub``: the selection as a data set with a card that says how it came about.

What is written is the folder of the data set: ``README.md``, ``data/train.jsonl`` and ``siftune.json``. It is pushed
only where that is asked for, and stays private unless that is said too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune._common.errors import ConfigError, DataError, SiftuneError, first_line
from siftune._common.files import read_json, write_json, write_lines, write_text
from siftune._common.text import counted, shorten, visible
from siftune.data.chat import as_record
from siftune.data.rows import Row
from siftune.data.sources import find_sources
from siftune.experiments.results.files import COMPARISON, read_results
from siftune.experiments.text import legend, short_table
from siftune.export.written import Written

MARK = "<!-- written by siftune export -->"
"""What a card of ours has in it; another ``README.md`` is not overwritten."""

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Publication:
    """What an export to the hub says and does.

    Attributes:
        repo: ``org/name`` of the data set.
        licence: Licence of the selection as the hub spells it (``apache-2.0``); of each source what its card says.
        push: Create the data set where there is none, and upload the folder.
        public: Whether everyone can read it.
    """

    repo: str = ""
    licence: str = ""
    push: bool = False
    public: bool = False


def publish(rows: Sequence[Row], run: Path, config: Mapping[str, Any], folder: Path,
            publication: Publication) -> Written:
    """Write the folder of the data set, and push it where that is asked for.

    Args:
        rows: The selected rows, best first.
        run: Its run folder.
        config: Its configuration.
        folder: Where to write.
        publication: What to say and do.

    Raises:
        ConfigError: it is to be pushed and no place is named, or to be public and no licence is.
        DataError: the folder has a card that siftune did not write.
        SiftuneError: ``huggingface_hub`` is not installed, or the hub refused.
    """
    _check(publication)
    card = folder / "README.md"
    if card.is_file() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise DataError("there is a README.md that siftune did not write", where=str(card),
                        hint="name another folder with --output")
    manifest = _manifest(run)
    data, summary = folder / "data" / "train.jsonl", folder / "siftune.json"
    write_lines(data, (json.dumps(record, ensure_ascii=False) for record in _records(rows, run)))
    write_json(summary, _summary(manifest, config))
    write_text(card, _card(rows, run, manifest, config, publication))
    files = [data, card, summary]
    if publication.push:
        return Written(files, f"pushed to {_push(folder, publication)}")
    return Written(files, "nothing was pushed: --push --repo ORG/NAME uploads the folder, private unless --public")


def _check(publication: Publication) -> None:
    if publication.repo and not re.fullmatch(r"[\w.-]+/[\w.-]+", publication.repo):
        raise ConfigError(f"{publication.repo!r} is no name of a data set on the hub", where="--repo",
                          hint="give it as ORG/NAME")
    if publication.push and not publication.repo:
        raise ConfigError("where to push to is not said", where="--push", hint="add --repo ORG/NAME")
    if publication.public and not publication.push:
        raise ConfigError("nothing is public that is not pushed", where="--public", hint="add --push --repo ORG/NAME")
    if publication.public and not publication.licence:
        raise ConfigError("a public data set needs a licence", where="--public",
                          why="The selection holds rows of its sources, whose licences bind it.",
                          hint="add --licence, such as --licence apache-2.0, if the sources allow it")


def _push(folder: Path, publication: Publication) -> str:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise SiftuneError("huggingface_hub is not installed", why=f"The folder is written: {folder}.",
                           hint="pip install huggingface_hub, or upload the folder yourself") from error
    from huggingface_hub import get_token

    if not get_token():
        raise ConfigError("there is no token for the hub", where="--push", why=f"The folder is written: {folder}.",
                          hint="log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    try:
        # An existing data set keeps what it is: public stays public, and then must have been said to be so.
        place = api.create_repo(publication.repo, repo_type="dataset", private=not publication.public, exist_ok=True)
        if not publication.public and not api.repo_info(publication.repo, repo_type="dataset").private:
            raise ConfigError(f"{publication.repo} is there already, and public", where="--repo",
                              hint="say so with --public and --licence, or name another")
        api.upload_folder(repo_id=publication.repo, repo_type="dataset", folder_path=folder,
                          allow_patterns=["README.md", "data/train.jsonl", "siftune.json"],
                          commit_message="Selection by siftune")
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise SiftuneError("the hub refused the push", where=publication.repo, why=first_line(error),
                           hint=f"the folder is written: {folder}; try again, or upload it yourself") from error
    return str(place)


def _manifest(run: Path) -> dict[str, Any]:
    path = run / "manifest.json"
    if not path.is_file():
        raise DataError("this is not a finished run: manifest.json is missing", where=str(run),
                        hint="name the --output-dir of a siftune select that ran to its end")
    try:
        return read_json(path)
    except ValueError as error:
        raise DataError("manifest.json cannot be read", where=str(path), why=first_line(error),
                        hint="run siftune select again") from error


def _records(rows: Sequence[Row], run: Path) -> list[dict[str, Any]]:
    """Rows of one shape: conversation, tools as JSON text, and where the row stands in the selection."""
    from pyarrow import parquet

    columns = parquet.read_table(run / "selection.parquet").sort_by("rank").to_pydict()
    tools = any(row.tools for row in rows)
    # Which nested fields a turn has would be the type of the column: a conversation with calls is JSON text then.
    nested = any(m.tool_calls for row in rows for m in row.messages)
    made = []
    for i, row in enumerate(rows):
        turns: Any = [as_record(message) for message in row.messages]
        made.append({"id": row.id, "messages": json.dumps(turns, ensure_ascii=False) if nested else turns,
                     **({"tools": json.dumps(row.tools, ensure_ascii=False) if row.tools else None} if tools else {}),
                     **{name: columns[name][i] for name in ("rank", "score", "source", "group", "nearest_target")
                        if name in columns}})
    return made


def _summary(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What replays the selection, without the places of this machine."""
    kept = {name: manifest.get(name) for name in ("siftune", "created", "seed", "method", "budget", "versions")}
    settings = {name: config[name] for name in (manifest["method"]["representation"], manifest["method"]["selector"])
                if isinstance(config.get(name), Mapping)}
    return _without_places({**kept, "model": _model(manifest), "settings": settings,
                            "max_length": config.get("max_length")})


def _without_places(value: Any) -> Any:
    """A value of a configuration in which paths of this machine are but the names of their files."""
    if isinstance(value, Mapping):
        return {name: _without_places(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(one) for one in value]
    if isinstance(value, str):
        kind, colon, path = value.rpartition(":") if value.startswith("file:") else ("", "", value)
        return f"{kind}{colon}{Path(path).name}" if path.startswith(("/", "~")) else value
    return value


def _model(manifest: Mapping[str, Any]) -> str:
    return _without_places(str(manifest["model"].get("name", UNKNOWN)))


def _card(rows: Sequence[Row], run: Path, manifest: Mapping[str, Any], config: Mapping[str, Any],
          publication: Publication) -> str:
    import yaml

    method, budget, data = _without_places(manifest["method"]), manifest["budget"], manifest["data"]
    licences = _licences(config)
    head: dict[str, Any] = {"tags": ["siftune", "data-selection"], "size_categories": [_size(len(rows))],
                            "task_categories": ["text-generation"],
                            "configs": [{"config_name": "default", "data_files": "data/train.jsonl"}]}
    if publication.licence:
        head = {"license": publication.licence, **head}
    paper = f" ({method['paper']})" if method.get("paper") else ""
    named = publication.repo.partition("/")[2] or "A selection of instruction data"
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---", MARK, f"# {_plain(named)}", "",
        f"{len(rows):,} of {counted(data['usable_rows'])} of a pool of instruction data, selected by siftune "
        f"{manifest['siftune']}. Each row has its conversation (`messages`), its `id` in its source, its `rank` and "
        "`score`.", "",
        "## How it was selected", "",
        f"- **Method**: {_plain(method['representation'])} with the selector {_plain(method['selector'])}{paper}",
        f"- **Model**: {_plain(_model(manifest))}",
        f"- **Budget**: {_plain(str(budget['asked']))}: {counted(budget['rows'])}, "
        f"{counted(budget['tokens'], 'token')}",
        f"- **Targets**: {counted(data['target_rows'])}; held-out test rows: {data['test_rows']:,}",
        f"- **Seed**: {manifest['seed']}",
        f"- **Rows left out** of the pool for what they are: {data['dropped']:,}", "",
        "Settings and versions are in `siftune.json`.", "",
        "## Baselines", "", _baselines(run), "",
        "## Sources and licences", "",
        "| source | rows in the pool | rows selected | licence |", "|---|---|---|---|"]
    chosen = {source: sum(row == source for row in _sources(run)) for source in {*_sources(run)}}
    for source in data["sources"]:
        name = source["name"]
        lines.append(f"| {_plain(name)} | {source['rows']:,} | {chosen.get(name, 0):,} | "
                     f"{_plain(licences.get(name, UNKNOWN))} |")
    said = (f"Of the selection: {_plain(publication.licence)}, as its publisher says." if publication.licence else
            "Of the selection: not said. Rows keep the licences of their sources.")
    lines += ["", f"{said} A licence is {UNKNOWN} where no card beside the source names one; see to it before you "
              "share the rows."]
    return "\n".join(lines) + "\n"


def _baselines(run: Path) -> str:
    """The comparison with random rows and others, where there was one."""
    if not (run / COMPARISON).is_file():
        return "Not compared: `siftune compare` was not run on this selection. That it helps is not shown."
    results = read_results(run / COMPARISON)
    return f"{short_table(results)}\n\n{legend(results)} Lower loss is better."


def _sources(run: Path) -> list[str]:
    from pyarrow import parquet

    return parquet.read_table(run / "selection.parquet", columns=["source"])["source"].to_pylist()


def _licences(config: Mapping[str, Any]) -> dict[str, str]:
    """Licence of each source by its name, as the card beside it says (``license`` of a ``README.md``)."""
    licences = {}
    for text in config.get("pool") or []:
        try:
            sources = find_sources([str(text)])
        except DataError:  # it has gone since
            continue
        for source in sources:
            if source.kind != "hub" and (licence := _licence(source.path)):
                licences[source.name] = licence
    return licences


def _licence(path: Path) -> str:
    """The ``license`` of the card in the file's folder, or of the data set whose folder ``data`` it is in."""
    import yaml

    for folder in (path, path.parent, path.parent.parent if path.parent.name == "data" else path.parent):
        card = folder / "README.md"
        if card.is_file():
            head = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", card.read_text(encoding="utf-8", errors="replace"), re.S)
            try:
                said = yaml.safe_load(head.group(1)).get("license") if head else None
            except (yaml.YAMLError, AttributeError):
                said = None
            if said:
                return ", ".join(map(str, said)) if isinstance(said, list) else str(said)
    return ""


def _size(rows: int) -> str:
    limits = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")]
    return next((name for limit, name in limits if rows < limit), "n>1M")


def _plain(text: str) -> str:
    """Text from outside as one line of Markdown that is nothing but text."""
    line = " ".join(shorten(visible(text), 200).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", line)
