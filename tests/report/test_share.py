"""A page to be given away names no path, no user, no machine and no command line; what rows say stays."""

from __future__ import annotations

import getpass
import json
import platform
import re
from pathlib import Path

import pytest
import yaml

from siftune._common.files import read_json
from siftune.report import build
from siftune.report.share import Private
from siftune.report.study import build as build_study
from tests.report import runs, study_pools

ABSOLUTE = re.compile(r"(?<![\w./:<~-])(?:/[A-Za-z]|~/|[A-Z]:\\)[\w.-]+[\w/.\\-]*")


def test_a_run_s_page_says_nothing_of_the_machine(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "run")
    secret = tmp_path / "a folder" / "pool.jsonl"
    told = read_json(run / "manifest.json")
    told |= {"command": f"siftune select --pool {secret} --output-dir {run}",
             "warnings": [f"{secret}: the files of other splits were not read", f"see {Path.home()}/x.txt."],
             "store": {"folder": str(run / "store"), "bytes": 1, "fingerprint": {"model": str(Path.home() / "llama")}},
             "model": {"name": f"{Path.home()}/models/llama", "class": "L", "parameters": 1},
             "diagnostics": {"file": f"{platform.node()}:{secret}"}}
    runs.write_json(run / "manifest.json", told)
    (run / "config.yaml").write_text(yaml.safe_dump({"pool": [str(secret)], "model": f"{Path.home()}/models/llama",
                                                     "method": f"file:{tmp_path}/v.npy", "output_dir": str(run)}))
    runs.write_jsonl(run / "dropped.jsonl", [{"id": f"home/{getpass.getuser()}/pool:3:ab", "source": "pool",
                                              "where": f"{secret}:3", "reason": "x", "detail": f"as in {secret}:4"}])
    runs.write_jsonl(run / "selected.jsonl", [runs.chat("What is in /etc/hosts?", "See /usr/share.")])
    page, numbers = build(run, share=True)
    shown = page.read_text(encoding="utf-8")
    assert "/etc/hosts" in shown, "what rows say is what the page is about"
    for text in (shown.replace("/etc/hosts", "").replace("/usr/share", ""), json.dumps(read_json(numbers)["config"])):
        for private in (str(tmp_path), str(Path.home()) + "/", str(Path.cwd()), platform.node(),
                        "siftune select --pool", f"home/{getpass.getuser()}"):
            assert private not in text, private
        assert not ABSOLUTE.findall(re.sub(r"<[^>]*>", "", text.partition("</style>")[2] or text))
    for kept in ("pool.jsonl:3", "llama", "v.npy"):
        assert kept in shown
    assert read_json(numbers)["command"] is None
    again, _ = build(run)
    assert str(secret) in again.read_text(encoding="utf-8"), "without the flag everything is there"


def test_a_study_s_page_says_nothing_of_the_machine(tmp_path: Path) -> None:
    secret, folder = tmp_path / "a folder" / "pool.jsonl", tmp_path / "run"
    told = study_pools.result()
    told["settings"] |= {"pool": [str(secret)], "model": f"{Path.home()}/models/llama", "output_dir": str(folder),
                         "train_models": [f"{Path.home()}/models/other"]}
    told["notes"] += [f"{secret} was read as /opt/data/other.jsonl", f"on {platform.node()}"]
    told["failures"] += [{"what": "training", "title": f"file:{tmp_path}/v.npy", "traceback": str(folder / "f.txt"),
                          "message": f"out of memory in home/{getpass.getuser()}/x, see {Path.home()}/log.txt"}]
    told["complete"] = False
    said = lambda i: (f"What is in /etc/hosts{i}?", f"See /usr/share{i}.")  # noqa: E731
    made = study_pools.inputs(12, said, ids=f"home/{getpass.getuser()}/pool:")
    study_pools.write(folder, told, made)
    shown = build_study(folder, share=True).read_text(encoding="utf-8")
    assert "/etc/hosts1" in shown, "what rows say is what the page is about"
    for private in (str(tmp_path), str(Path.home()) + "/", str(Path.cwd()), platform.node(),
                    f"home/{getpass.getuser()}", "/opt/data"):
        assert private not in shown, private
    for kept in ("pool.jsonl", "llama", "other", "v.npy", "log.txt"):
        assert kept in shown
    assert str(secret) in build_study(folder).read_text(encoding="utf-8"), "without the flag everything is there"


@pytest.mark.parametrize(("text", "shown"), [
    ("1/2 rows and/or https://example.org/a/b", "1/2 rows and/or https://example.org/a/b"),
    ("see /opt/data/pool.jsonl:12, or ~/x/y", "see pool.jsonl:12, or y"), ("C:\\Users\\ann\\p.csv", "p.csv"),
    ("file:/opt/v.npy", "file:v.npy"), ("home/ann/pool", "pool"), ("5% / 10%", "5% / 10%"), ("'/a/b/c'", "'c'"),
])
def test_of_a_path_its_last_part_stays(text: str, shown: str, tmp_path: Path) -> None:
    assert Private(tmp_path).text(text) == shown
