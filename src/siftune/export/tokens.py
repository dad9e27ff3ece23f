"""The pre-tokenised form, which all three trainers read as it is: the very ids and masks that siftune scored.

Rows are ``input_ids``, ``attention_mask`` and ``labels`` (-100 where a token is not supervised), cut at the length that
the run cuts at. The ids mean something to one tokenizer only: that of the model that is named in the note.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siftune._common.files import make_folder, write_error, write_json, write_lines, write_text
from siftune.export.scored import Scored
from siftune.export.written import Written

_READERS = {"trl": "SFTTrainer", "axolotl": "Axolotl", "llamafactory": "LLaMA-Factory"}


def write_tokens(to: str, scored: Scored, data: Path) -> Written:
    """Write the form that a trainer takes, with its settings.

    Args:
        to: ``trl``, ``axolotl`` or ``llamafactory``.
        scored: The rows.
        data: The data file.
    """
    files, settings = {"trl": _trl, "axolotl": _axolotl, "llamafactory": _llamafactory}[to](scored, data)
    name = settings_file(data, to)
    write_text(name, _yaml(settings))
    note = (f"token ids of {scored.model} and their labels, as they were scored: train that model (--form messages "
            f"writes text). {_READERS[to]} takes them as they are; {name.name} has the settings; its "
            f"paths are relative to {data.parent}")
    return Written([data, *files, name], note, name)


def settings_file(data: Path, to: str) -> Path:
    """The file beside the data that has the trainer's settings."""
    return data.with_suffix(f".{to}.yaml")


def tokenised_folder(data: Path) -> Path:
    """The folder beside the data that has it as LLaMA-Factory reads it."""
    return data.with_suffix(".tokenized")


def _trl(scored: Scored, data: Path) -> tuple[list[Path], dict[str, Any]]:
    write_lines(data, map(json.dumps, _records(scored)))
    return [], {"datasets": [{"path": "json", "data_files": data.name}], "max_length": scored.max_length}


def _axolotl(scored: Scored, data: Path) -> tuple[list[Path], dict[str, Any]]:
    write_lines(data, map(json.dumps, _records(scored)))
    # Without a type Axolotl takes the three columns as they are. It leaves out rows of more tokens than sequence_len,
    # and none is longer.
    return [], {"datasets": [{"path": data.name, "ds_type": "json"}], "sequence_len": scored.max_length}


def _llamafactory(scored: Scored, data: Path) -> tuple[list[Path], dict[str, Any]]:
    write_lines(data, map(json.dumps, _records(scored)))
    folder = tokenised_folder(data)
    _save(scored, folder)
    # It asks for the name of a data set and then reads the folder alone; the template is not used for the rows.
    return [folder], {"stage": "sft", "dataset": data.stem, "tokenized_path": folder.name, "template": "empty",
                      "cutoff_len": scored.max_length}


def _records(scored: Scored) -> Iterator[dict[str, Any]]:
    for i, (row, rendered) in enumerate(zip(scored.rows, scored.rendered, strict=True)):
        yield {"id": row.id, "input_ids": rendered.ids.tolist(), "attention_mask": [1] * len(rendered),
               "labels": scored.labels(i)}


def _save(scored: Scored, folder: Path) -> None:
    """The rows as a folder of ``datasets.save_to_disk``, put into its place when it is whole, without their ids.

    Written file by file: what ``datasets`` 4 and later write names types that earlier versions do not know, and
    LLaMA-Factory allows versions from 2.16 on. All read this spelling.
    """
    import pyarrow as pa

    types = {"input_ids": pa.int32(), "attention_mask": pa.int8(), "labels": pa.int64()}
    schema = pa.schema([(name, pa.list_(kind)) for name, kind in types.items()])
    table = pa.Table.from_pylist([{name: record[name] for name in types} for record in _records(scored)], schema)
    features = {name: {"feature": {"dtype": str(kind), "_type": "Value"}, "_type": "Sequence"}
                for name, kind in types.items()}
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": _fingerprint(table),
             "_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False,
             "_split": None}
    make_folder(folder.parent)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name[:60]}.", dir=folder.parent) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            with pa.OSFile(str(new / "data-00000-of-00001.arrow"), "wb") as out, pa.ipc.new_stream(out, schema) as file:
                file.write_table(table)
            write_json(new / "dataset_info.json", {"citation": "", "description": "", "features": features,
                                                   "homepage": "", "license": ""})
            write_json(new / "state.json", state)
            if folder.exists():
                folder.replace(old)
            new.replace(folder)
    except OSError as error:
        raise write_error(folder, error) from error


def _fingerprint(table: Any) -> str:
    """What ``datasets`` names its caches by: other content, another name."""
    from xxhash import xxh3_64

    hashed = xxh3_64()
    for batch in table.to_batches():
        for column in batch.columns:
            for buffer in column.buffers():
                if buffer is not None:
                    hashed.update(buffer)
    return hashed.hexdigest()


def _yaml(settings: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
