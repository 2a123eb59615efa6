# From Equation to Code. Every target sets itself up in .venv first; `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first suitable Python, or python3, whose version tools/install.py then refuses in a sentence.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; \
	done || true)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PORT ?= 8000
OUT ?= classroom
HUB := .venv-hub
TRITON := .venv-triton
# The one that belongs to the torch of requirements.lock.
TRITON_VERSION := 3.7.1

# One thread: results do not depend on the number of cores, and two test workers do not contend.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
# Jupyter's new default, stated to silence its migration notice.
export JUPYTER_PLATFORM_DIRS := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

$(READY): requirements.lock pyproject.toml environment.yml tools/install.py
	@if [ -z "$(PYTHON)" ] && ! command -v python3 >/dev/null; then \
		echo "Python is missing: install Python 3.11, 3.12 or 3.13 and run make again." >&2; exit 1; fi
	@$(or $(PYTHON),python3) tools/install.py $(VENV)
	@touch $@

.PHONY: install
install: $(READY)  ## create .venv with the versions of requirements.lock

.PHONY: book
book: $(READY)  ## execute every notebook and build the HTML, warnings are errors
	@$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "Open file://$(CURDIR)/_build/html/index.html  (or run: make serve)"

.PHONY: serve
serve: book  ## serve the built book on a local port (PORT=8000)
	@echo "The book is at http://127.0.0.1:$(PORT)/  (Ctrl-C stops)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

.PHONY: pdf
pdf: book  ## print the whole book as one PDF (needs Chromium)
	@$(BIN)/python tools/make_pdf.py _build/html _build/from-equation-to-code.pdf

.PHONY: lab
lab: $(READY)  ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab --notebook-dir=notebooks

.PHONY: check
check: $(READY)  ## quick: style, types, unit tests (no notebooks, no book)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not book and not sandbox and not hub" tests

.PHONY: test
test: $(READY)  ## everything: style, types, units with coverage, notebooks, the strict build, the pages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@if [ "$$(uname -s)" = Linux ]; then $(MAKE) --no-print-directory test-kernels; fi
	@$(BIN)/python -m pytest -n 2 --dist loadfile \
		--no-loadscope-reorder \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=600 \
		--cov=rnnlib --cov-config=pyproject.toml --cov-report=term:skip-covered --cov-fail-under=95 \
		--ignore=notebooks/assignments/release \
		tests notebooks/assignments

# Triton is large, and only these tests need it: it lies beside the environment.
$(TRITON)/ready: $(READY) Makefile
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --upgrade \
		--target $(TRITON) triton==$(TRITON_VERSION)
	@touch $@

.PHONY: test-kernels
test-kernels: $(TRITON)/ready  ## the kernels for a GPU, in Triton's interpreter and compiled (Linux; no GPU needed)
	@PYTHONPATH=$(TRITON) $(BIN)/python -m pytest -n 2 tests/test_fused.py

.PHONY: bench
bench: $(READY)  ## time rnnlib beside torch.nn (ARGS="--device cuda --points A,B --output bench.json")
	@$(BIN)/python -m rnnlib.benchmark $(ARGS)

.PHONY: outputs
outputs: $(READY)  ## re-run the notebooks and keep the outputs of the checked cells only
	@$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb
	@$(BIN)/nbstripout --keep-count --keep-id --extra-keys 'metadata.language_info metadata.jupytext' notebooks/*.ipynb

.PHONY: assignments
assignments: $(READY)  ## write the students' versions of the assignments
	@$(BIN)/python -m rnnlib.classroom release

.PHONY: grade
grade: $(READY)  ## grade a folder of submissions: SUBMISSIONS=folder (ASSIGNMENT=name OUT=folder DUE=time)
	@$(BIN)/python -m rnnlib.classroom grade "$(SUBMISSIONS)" --out "$(OUT)" $(if $(ASSIGNMENT),--assignment $(ASSIGNMENT)) \
		$(if $(DATABASE),--database "$(DATABASE)") $(if $(DUE),--due "$(DUE)") $(if $(PART),--part $(PART))

# The hub has an environment of its own, so that an update of one does not touch the other.
$(HUB)/ready: deploy/jupyterhub/requirements.lock deploy/jupyterhub/package-lock.json
	@if ! command -v npm >/dev/null; then \
		echo "npm is missing: install Node.js 20 or later with npm and run make again." >&2; exit 1; fi
	@$(or $(PYTHON),python3) -m venv $(HUB)
	@$(HUB)/bin/python -m pip --disable-pip-version-check install --quiet -r deploy/jupyterhub/requirements.lock
	@mkdir -p $(HUB)/npm && cp deploy/jupyterhub/package.json deploy/jupyterhub/package-lock.json $(HUB)/npm
	@cd $(HUB)/npm && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

.PHONY: hub
hub: $(READY) $(HUB)/ready  ## start JupyterHub for a class on this machine (as root; TEACHER=name PORT=8000)
	@HUB_TEACHERS="$(or $(TEACHER),$(HUB_TEACHERS))" HUB_PORT=$(PORT) \
		$(HUB)/bin/jupyterhub --config deploy/jupyterhub/jupyterhub_config.py

.PHONY: test-hub
test-hub: $(READY) $(HUB)/ready  ## a class on the hub, from sign-in to feedback, in a browser (as root)
	@$(BIN)/python -m pytest -q -m hub tests/hub

.PHONY: agreement
agreement: $(READY)  ## measure again how closely rnnlib agrees with its references (a table of the book)
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not book" --record-agreement book/agreement.json tests

.PHONY: lock
lock: $(READY)  ## write requirements.lock from what .venv holds
	@$(BIN)/python tools/lock.py > requirements.lock.new && mv requirements.lock.new requirements.lock

.PHONY: clean
clean:  ## remove .venv and everything built
	rm -rf $(VENV) $(HUB) $(TRITON) _build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
