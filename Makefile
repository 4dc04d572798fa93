# `make train` and `make test` work from nothing but Python 3.11+, a C++17 compiler and make.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CPP := $(wildcard csrc/*.cpp csrc/*.hpp)

.PHONY: train compare test test-all lint format bench docs clean

train: $(INSTALLED)  ## train REMI on the demo data, show metrics and recommendations
	$(BIN)/remi-fast train demo --out $(RUN)
	$(BIN)/remi-fast recommend $(RUN) --sample 3 --k 5

compare: $(INSTALLED)  ## plain sampled softmax against REMI on the demo data
	$(BIN)/python -m bench.quality demo --out $(RUN)-compare --seeds 1

test: lint  ## lint and the test suite, on up to four cores
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

test-all: lint  ## the same in its long forms, for hours: before a release
	$(BIN)/python -m pytest --full
	$(BIN)/python -m tests.mutants
	$(BIN)/python -m tests.sanitizers address
	$(BIN)/python -m tests.sanitizers thread

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs remi_fast kernels csrc bench/*.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: $(INSTALLED)  ## microbenchmarks; the longer ones are listed in bench/README.md
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m pytest bench --benchmark-only

docs: $(INSTALLED)  ## the documentation site into build/site (to search it: python -m http.server)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

clean:
	rm -rf build *.egg-info *.so $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py constraints.txt $(CPP)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
