"""The folder of a data set for the hub, and what is asked of the hub when it is pushed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from siftune._common.errors import ConfigError, DataError
from siftune.data.readers import read_rows
from siftune.export import Publication, export
from tests.cli.command import ROOT
from tests.export.runs import CHATS, lines, make_run

MANIFEST = {
    "siftune": "0.1.0", "created": "2026-01-01T00:00:00+00:00", "command": "siftune select --pool /secret/pool.jsonl",
    "seed": 7, "method": {"name": "rds+", "representation": "rds", "selector": "round-robin",
                          "paper": "arXiv 2503.01807", "reason": ""},
    "model": {"name": "/secret/models/small"}, "budget": {"asked": "5%", "rows": 6, "tokens": 321},
    "data": {"pool_rows": 100, "usable_rows": 98, "target_rows": 4, "test_rows": 2, "dropped": 2,
             "sources": [{"name": "pool", "rows": 90}, {"name": "other|`x`\n# big", "rows": 8}]},
    "versions": {"torch": "2.13.0"}, "store": {"folder": "/secret/store"},
}


def run_of(folder: Path, records: Any = CHATS, **settings: Any) -> Path:
    run = make_run(folder, records, **{"rds": {"layer": -1, "file": "/secret/scores.npy"}, **settings})
    (run / "manifest.json").write_text(json.dumps(MANIFEST))
    return run


def head_and_body(card: Path) -> tuple[dict[str, Any], str]:
    _, head, body = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_card_says_how_the_selection_came_about(tmp_path: Path) -> None:
    made = export(run_of(tmp_path / "run"), "hub", tmp_path / "out")
    assert [file.relative_to(tmp_path / "out").as_posix() for file in made.files] == [
        "data/train.jsonl", "README.md", "siftune.json"]
    assert {file for file in (tmp_path / "out").rglob("*") if file.is_file()} == set(made.files)
    head, body = head_and_body(tmp_path / "out" / "README.md")
    assert "license" not in head
    assert head["configs"] == [{"config_name": "default", "data_files": "data/train.jsonl"}]
    for said in ("rds with the selector round-robin (arXiv 2503.01807)", "5%: 6 rows, 321 tokens", "**Seed**: 7",
                 "small", "Not compared", "| pool | 90 | 6 | unknown |"):
        assert said in body, said
    assert "\n# big" not in body
    assert "other\\|\\`x\\` \\# big" in body
    whole = "".join(file.read_text(encoding="utf-8") for file in made.files)
    assert "secret" not in whole  # no place of this machine
    summary = json.loads((tmp_path / "out" / "siftune.json").read_text())
    assert (summary["seed"], summary["settings"]) == (7, {"rds": {"layer": -1, "file": "scores.npy"}})
    assert "nothing was pushed" in made.note


@pytest.mark.parametrize("records", [CHATS, [
    {"messages": [{"role": "user", "content": "Weather?"},
                  {"role": "assistant", "content": "", "tool_calls": [
                      {"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]}],
     "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, CHATS[0]]])
def test_the_rows_are_read_back_as_they_were(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    import datasets

    run = run_of(tmp_path / "run", records)
    made = export(run, "hub", tmp_path / "out")
    there, _ = read_rows([made.files[0]], role="pool", format="mixed")
    selected, _ = read_rows([run / "selected.jsonl"], role="pool", format="mixed")
    assert [row.id for row in there] == [f"r{i}" for i in range(len(records))]
    assert [(row.messages, row.tools) for row in there] == [(row.messages, row.tools) for row in selected]
    table = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["rank"] == list(range(1, len(records) + 1))  # the folder is a data set, card and all


def test_licences_are_those_of_the_cards_beside_the_sources(tmp_path: Path) -> None:
    pool = tmp_path / "clone" / "data"
    pool.mkdir(parents=True)
    (pool / "pool.jsonl").write_text("{}\n")
    (pool.parent / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Pool\n")
    run = run_of(tmp_path / "run", pool=[str(pool / "pool.jsonl")])
    _, body = head_and_body(export(run, "hub", tmp_path / "out").files[1])
    assert "| pool | 90 | 6 | cc-by-4.0 |" in body
    (pool.parent / "README.md").write_text("---\n: [\n---\n")
    head, body = head_and_body(export(run, "hub", tmp_path / "out",
                                      publication=Publication("org/sums", "apache-2.0")).files[1])
    assert "| pool | 90 | 6 | unknown |" in body
    assert head["license"] == "apache-2.0"
    assert body.count("# sums\n") == 1


def test_a_card_of_someone_else_is_not_overwritten(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    export(run, "hub", tmp_path / "out")
    export(run, "hub", tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(DataError, match=r"README\.md that siftune did not write"):
        export(run, "hub", tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(("asked", "says"), [
    (Publication(push=True), "where to push to"), (Publication("name", push=True), "ORG/NAME"),
    (Publication("org/name", public=True), "not pushed"),
    (Publication("org/name", push=True, public=True), "needs a licence"),
])
def test_what_would_go_wrong_is_refused_before_anything_is_written(tmp_path: Path, asked: Publication,
                                                                  says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        export(run_of(tmp_path / "run"), "hub", tmp_path / "out", publication=asked)
    assert says in str(refused.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="for data sets on the hub"):
        export(tmp_path / "run", "jsonl", tmp_path / "out", publication=Publication("org/name"))


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as a push asks for; it keeps what it was asked."""

    asked: list[tuple[str, str, str, bytes]]
    public = False
    address = ""

    def _answer(self, body: bytes = b"") -> None:
        self.asked.append((self.command, self.path, self.headers.get("authorization") or "", body))
        answer: Any = {"url": f"{self.address}/datasets/org/sums",
                       "commitUrl": f"{self.address}/datasets/org/sums/commit/{'0' * 40}", "commitOid": "0" * 40}
        if "/preupload/" in self.path:
            answer = {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                                for one in json.loads(body)["files"]]}
        elif self.command == "GET":
            answer = {"id": "org/sums", "private": not self.public, "siblings": [], "sha": "0" * 40}
        elif self.path.endswith("/validate-yaml"):
            answer = {"errors": [], "warnings": []}
        said = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("content-length") or 0)))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[type[_Hub]]:
    handler = type("Hub", (_Hub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.address = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


def push(hub: Any, run: Path, output: Path, *options: str, token: str = "hf_made_up") -> Any:
    """A process of its own: where the hub is, its library reads when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(output / "home"),
                   "NO_PROXY": "127.0.0.1"}
    environment.pop("HF_TOKEN", None)
    if token:
        environment["HF_TOKEN"] = token
    return subprocess.run([sys.executable, "-m", "siftune", "export", str(run), "--to", "hub", "--output",
                           str(output / "out"), "--repo", "org/sums", "--push", *options], env=environment, cwd=ROOT,
                          capture_output=True, text=True, check=False)


def test_a_push_creates_a_private_data_set_and_commits_three_files(hub: Any, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    done = push(hub, run, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pushed to" in done.stderr
    create = next(json.loads(body) for _, path, _, body in hub.asked if path == "/api/repos/create")
    assert (create["name"], create["organization"], create["type"]) == ("sums", "org", "dataset")
    assert create.get("private", create.get("visibility") == "private") is True
    assert {said for _, path, said, _ in hub.asked if "/create" in path or "/commit/" in path} == {"Bearer hf_made_up"}
    commit = next(body for _, path, _, body in hub.asked if "/commit/" in path)
    written = [json.loads(line) for line in commit.decode().splitlines()]
    assert sorted(one["value"]["path"] for one in written if one["key"] == "file") == [
        "README.md", "data/train.jsonl", "siftune.json"]


def test_nothing_is_uploaded_without_a_token_or_into_a_public_data_set_unasked(hub: Any, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    done = push(hub, run, tmp_path, token="")
    assert done.returncode == 2
    assert "no token" in done.stderr
    assert hub.asked == []
    assert len(lines(tmp_path / "out" / "data" / "train.jsonl")) == len(CHATS)  # the folder is written
    hub.public = True
    done = push(hub, run, tmp_path)
    assert done.returncode == 2
    assert "is there already, and public" in done.stderr
    assert not [path for _, path, _, _ in hub.asked if "/commit/" in path]
