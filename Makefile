# make demo: everything once, on real data.  make test: the test suite.  Both set up .venv from nothing.
PYTHON ?= python3.11
MINUTES ?= 40
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One OpenMP thread per process in tests: two threads on two busy cores can be several times slower than one.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test test-slow test-lmms lint types clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[eval,video,graph,backbone,serve,dev]"
	$(BIN)/python -m pip install --quiet -e ".[pesq]" > $(VENV)/pesq.log 2>&1 || \
		echo "pesq cannot be built (it needs a C compiler and Python's headers; see $(VENV)/pesq.log): PESQ is left out"
	touch $(READY)

demo: $(READY)
	$(BIN)/python scripts/demo.py --minutes $(MINUTES)

# The survey's recipes are tested on real vectors; where these cannot be had, their tests are skipped and say so.
test: $(READY)
	-$(BIN)/anyglot fetch vectors --out runs/vectors
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY)
	-$(BIN)/anyglot fetch vectors --out runs/vectors
	$(TEST_ENV) $(BIN)/python -m pytest -m slow

# lmms-eval brings more than a hundred packages, and versions of its own: it has an environment to itself.
LMMS := .venv-lmms
$(LMMS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet --upgrade pip
	$(LMMS)/bin/python -m pip install --quiet -e ".[video]" "lmms-eval>=0.7.3" pytest pytest-timeout hypothesis
	touch $(LMMS)/.ready

test-lmms: $(LMMS)/.ready
	$(TEST_ENV) $(LMMS)/bin/python -m pytest tests/eval/test_lmms.py tests/eval/test_lmms_messages.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(LMMS) runs build dist
