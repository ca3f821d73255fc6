# Becoming a Machine Learning Practitioner: `make help` lists the targets.
# Needs Python 3.11 or newer, make and git; everything else is installed under .venv and .venv-book.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help book pdf test kills lab chat serve execute refresh export bench train adopt chapter clean pins

PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python,$(shell $(python) -c 'import sys; sys.version_info >= (3, 11) and print("$(python)")' 2>/dev/null)))
JOBS   ?= 2
# Windows keeps an environment's programs in Scripts, every other system in bin.
BIN    := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
TEST   := .venv/$(BIN)
BOOK   := .venv-book/$(BIN)
# A kernel computes on one thread; two notebooks run side by side. See notebooks/90_honest_numbers.ipynb.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# What Python has compiled once it must keep, though many images say that it may not: the environments below are installed uncompiled.
unexport PYTHONDONTWRITEBYTECODE

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'
	@echo "  TORCH_INDEX=URL  on Linux: where to take PyTorch from; PyTorch's own page shows the one for CPU:"
	@echo "                   https://pytorch.org/get-started/locally/"

book: .venv-book/done  ## build the pages (needs no torch) and say where they are
	@# Sphinx builds changed pages only: after a change to what all pages share, and after a failure, it must begin anew.
	@test -e _build/built -a -z "$$(find book/_static book/_ext book/_templates _config.yml _toc.yml constraints.txt -newer _build/built 2>&1)" || rm -rf _build/.doctrees
	@rm -f _build/built
	@$(BOOK)/jupyter-book build . -W -n --keep-going --quiet
	@touch _build/built
	@test -s _build/html/index.html || { echo "the build left no _build/html/index.html" >&2; exit 1; }
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

pdf: book .venv-book/pdf  ## the whole book as one PDF (needs Chromium, Chrome or Edge) and say where it is
	@$(BOOK)/python tools/pdf.py

# Of the tests one process more than cores: those that look at pages wait for a browser part of their time.
test: .venv/done  ## everything: export drift, every notebook strictly, the tests, the built site
	@echo "== notebooks, strictly (nbval): outputs, results and order"
	@$(TEST)/python tools/validate.py -n $(JOBS)
	@echo "== the site, from a clean tree, and the tests"
	@$(TEST)/python -m pytest -n $$(($(JOBS) + 1)) --dist loadfile --no-loadscope-reorder tests

kills: .venv/done  ## kill a recorded run at 50 random moments (KILLS=…), resume it, and compare to the bit
	@KILLS=$(or $(KILLS),50) KILL_SEED=$(or $(KILL_SEED),$$RANDOM) $(TEST)/python -m pytest -q tests/test_experiments.py -k killed

chat: .venv/done  ## talk with the chatbot in the terminal: SEED=…, TEMPERATURE=…, MODEL=weights of your own
	@$(TEST)/python tools/chat.py $(if $(SEED),--seed $(SEED)) $(if $(TEMPERATURE),--temperature $(TEMPERATURE)) $(if $(MODEL),--model $(MODEL))

serve: .venv/done  ## serve its model on this computer to programs that speak OpenAI's interface: PORT=8000, MODEL=…
	@$(TEST)/python tools/serve.py $(if $(PORT),--port $(PORT)) $(if $(MODEL),--model $(MODEL))

lab: .venv/lab  ## JupyterLab on the notebooks
	@$(TEST)/jupyter lab --notebook-dir=notebooks

execute: .venv/done  ## run notebooks in order in a fresh kernel and keep their outputs: NB=11_surprise, or all
	@$(TEST)/python tools/execute.py $(NB)

refresh: .venv/done  ## measure the published results again: NB=…, and REASON="…" where one leaves its tolerance
	@$(TEST)/python tools/execute.py --refresh $(if $(REASON),--reason "$(REASON)") $(NB)

export: .venv/done  ## write practitioner/ from the notebooks
	@$(TEST)/nbdev-export

bench: .venv/done  ## measure speeds, alone on the machine
	@$(TEST)/python tools/bench.py

train: .venv/done  ## train what the book keeps in data/: the released model, or RUN=…; goes on after a stop
	@$(TEST)/python tools/train.py $(RUN)

adopt:  ## make a fork your own: REPO=owner/name
	@$(PYTHON) tools/adopt.py $(REPO) $(if $(ORIGINAL),--original)

chapter:  ## begin a notebook of your own: NB=week_1
	@$(PYTHON) tools/chapter.py $(NB)

clean:  ## remove what was built (the environments and the corpus cache stay)
	rm -rf _build .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -o -name .ipynb_checkpoints | grep -v '^./.venv' | xargs rm -rf

pins: .venv/done  ## renew constraints.txt from pyproject.toml
	@$(TEST)/python -m pip install --quiet uv
	@{ sed -n '1,/^$$/p' constraints.txt; $(TEST)/uv pip compile pyproject.toml --group test --group lab --universal --python-version 3.11 \
	  --constraint <(echo torch==$(shell sed -n 's/^torch==//p' constraints.txt)) --no-annotate --no-header \
	  | grep -vE '^(nvidia-|cuda-|triton)'; } > constraints.new && mv constraints.new constraints.txt

# `done` is newer than what it was made from, so a second run of any target installs nothing. Nothing is compiled beforehand:
# what is imported is compiled then, and most of a library never is.
.venv-book/done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found" >&2; exit 1; }
	@echo "== installing what builds the pages into .venv-book (about a minute, once)"
	@$(PYTHON) -m venv .venv-book
	@$(BOOK)/python -m pip install --quiet --no-compile --upgrade pip --constraint constraints.txt
	@$(BOOK)/python -m pip install --quiet --no-compile --group book --constraint constraints.txt
	@touch $@

# What prints the pages, beside what builds them, for those who want a PDF.
.venv-book/pdf: .venv-book/done
	@echo "== installing what prints the pages into .venv-book"
	@$(BOOK)/python -m pip install --quiet --no-compile --group pdf --constraint constraints.txt
	@touch $@

# JupyterLab, for those who want it: with it, each program that reads a notebook would begin almost 2 seconds later.
.venv/lab: .venv/done
	@echo "== installing JupyterLab into .venv"
	@$(TEST)/python -m pip install --quiet --no-compile --group lab --constraint constraints.txt
	@touch $@

.venv/done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found" >&2; exit 1; }
	@echo "== installing what runs the notebooks into .venv (some minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(TEST)/python -m pip install --quiet --no-compile --upgrade pip --constraint constraints.txt
	@$(TEST)/python -m pip install --quiet --no-compile torch --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@$(TEST)/python -m pip install --quiet --no-compile --editable . --group test --constraint constraints.txt
	@touch $@
