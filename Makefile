# Everything runs in .venv, which is made on first use and remade when the requirements change.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
DEMO := runs/demo
DEVICE ?= cpu
CARD ?= h100

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest test-newest fuzz check soak bench truth real reference families model notebooks run-notebooks docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# These models are so small that a second thread costs more than it gains.
demo test reference: export OMP_NUM_THREADS ?= 1

demo: $(STAMP)  ## the main job on the embedded model: scores, circuit, figure, report
	@$(BIN)/circuits discover --model toy --task ioi --method eap-ig --steps 5 --size 40 --out $(DEMO)
	@echo
	@echo "The figure is $(DEMO)/circuit.svg (and circuit.pdf); read $(DEMO)/report.md beside it."

# Compiled files are kept, whatever the shell says: without them each process compiles for 10 seconds.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(STAMP)  ## tests and doctests, a process for each core
	$(BIN)/pytest -q -n auto --dist loadfile

test-lowest:  ## some fast tests with the oldest versions that pyproject.toml allows, in .venv-lowest
	@PYTHON=$(PYTHON) .ci/versions lowest

test-newest:  ## some fast tests with the newest of everything, in .venv-newest
	@PYTHON=$(PYTHON) .ci/versions newest

fuzz: $(STAMP)  ## 10,000 damaged files: each refused in words, or read and sound
	$(BIN)/python -m tests.fuzz

check: $(STAMP)  ## lint, format, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

soak: export OMP_NUM_THREADS ?= 1
soak: $(STAMP)  ## the longest tests: 2,400 hostile files, runs killed at random, 200 scorings
	$(BIN)/python -m tests.fuzz 2400 0 hostile
	$(BIN)/pytest -q -m slow -s tests/patching/work tests/circuits/test_runs.py tests/circuits/test_killed.py tests/test_killed_writers.py

bench: $(STAMP)  ## operations, time and memory beside the plain model; DEVICE=cuda, MODEL=FOLDER, CARD=a100
	$(BIN)/python -m benchmarks --device $(DEVICE) $(if $(MODEL),--model $(MODEL)) --card $(CARD)

truth: $(STAMP)  ## which method finds true circuits, at what cost: docs/truth.md (masks alone: 20 minutes)
	$(BIN)/python -m benchmarks.truth --learned

real: $(STAMP)  ## methods and circuits on a real model: docs/real.md; MODEL=FOLDER, resumable (hours)
	$(BIN)/python -m benchmarks.real $(MODEL)

reference: $(STAMP)  ## exact scores of all edges on every task of the trained models (minutes)
	$(BIN)/python -m benchmarks.reference

families: export OMP_NUM_THREADS ?= 1
families: $(STAMP)  ## every causal model class of transformers, tiny, against plain hooks: docs/families.md
	$(BIN)/python tests/judged.py

model: $(STAMP)  ## train the embedded models and their transcoders anew (some minutes each)
	$(BIN)/python -m patching.models
	$(BIN)/python -m patching.dictionaries

notebooks: $(STAMP)  ## the tutorials, in Jupyter
	$(BIN)/jupyter lab notebooks

run-notebooks: $(STAMP)  ## run every notebook from top to bottom and keep its outputs
	$(BIN)/python notebooks/run.py

docs: $(STAMP)  ## build the documentation site: open site/index.html
	@$(BIN)/python -c "import material, mkdocs, mkdocstrings" 2>/dev/null || \
		$(PIP) install -c constraints.txt -e ".[docs]"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in site; open site/index.html."

clean:  ## remove what was made here, except .venv
	rm -rf runs build dist site .pytest_cache .ruff_cache .import_linter_cache
	find circuits patching tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and alone: the machine's own package index decides which build it is.
$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up .venv (once; some minutes, mostly download) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install torch==2.13.0
	@$(PIP) install -c constraints.txt -e ".[dev,notebooks]"
	@touch $@
