# `make demo` and `make test` need Python 3.11 or newer and make; they keep everything in .venv.
# `make tests CONSTRAINTS=constraints/lowest.txt` installs the oldest versions that pyproject.toml admits, in a new .venv.

PYTHON ?= python3
CONSTRAINTS ?=
BIN := .venv/bin

.PHONY: demo test lint types tests torture mutants docs pictures site clean

demo: .venv/installed
	$(BIN)/python benchmarks/demo.py

# mypy uses one core: it runs beside the tests.
test: lint
	$(MAKE) --jobs=2 types tests

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

# Compiled first: where PYTHONDONTWRITEBYTECODE is set, each process that a test starts would compile the package anew.
tests: .venv/installed
	$(BIN)/python -m compileall -q ntt_cli
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The long form of the reliability tests.
torture: .venv/installed
	NTT_TORTURE=1 $(BIN)/python -m pytest -n 2 -o faulthandler_timeout=7200 tests/reliability tests/runs/test_resume.py

# Changes the modules that pyproject.toml names, one operator or word at a time, and shows what no test noticed.
mutants: .venv/installed
	$(BIN)/pip install --quiet mutmut
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

# Writes what the documents quote: the commands' --help, schemas of their JSON, and a picture of the progress panel.
docs: .venv/installed
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/make_schemas.py
	$(BIN)/python docs/make_panel.py

# The documents as pages, at build/site/index.html. A dead link, or a page that nothing leads to, is an error.
site: .venv/installed
	$(BIN)/sphinx-build -q -W --keep-going -n -E -b html -c docs . build/site

# Takes pictures of the pages of `ntt report`; it needs Chromium.
pictures: .venv/installed
	$(BIN)/python docs/make_pictures.py

.venv/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo build
