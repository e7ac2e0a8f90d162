# make demo: environment, brains from shipped weights, then simulated brains, VQ-VAE, prior and report (3.5
# minutes on two cores)
# make test: environment, lint, tests (about 16 minutes on two cores)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint unit thorough jax jax-all torch docs bench fuzz faults audit clean

demo: $(VENV)/.installed
	# What weights draw that were trained on real scans for an hour.
	$(BIN)/python predict.py oasis2d sample --out predictions/oasis2d
	# Both networks start from those weights: the autoencoder needs 3 passes over windows instead of
	# 25, the prior 3 instead of 15.
	$(BIN)/python train.py oasis2d --train.pretrained oasis2d --train.window 64 --train.epochs 3 \
		--train.learning-rate 1e-3 --prior.batch-size 16 --prior.epochs 3 --prior.learning-rate 1e-3

test: lint unit jax

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Two workers on two cores: threads of OpenMP that wait for each other would only be in the way.
# Files that share a run go to one worker, the longest first (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder
unit: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(PYTEST)

# All tests: also those that repeat, slowly, what others see in part.
thorough: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(PYTEST) -m ""

# The same layers, models and programs where TensorFlow cannot even be imported: what may differ
# there (tests/conftest.py lists it), or all of it.
# Most of their time would go into compiling programs that run once: XLA optimises them less, and
# the two workers share what is compiled.
ON_JAX := OMP_NUM_THREADS=1 KERAS_BACKEND=jax XLA_FLAGS=--xla_backend_optimization_level=1 \
	JAX_COMPILATION_CACHE_DIR=$(abspath $(VENV))/jax-cache \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
jax: $(VENV)/.installed
	$(ON_JAX) $(PYTEST) -m jax tests/layers tests/models tests/training

jax-all: $(VENV)/.installed
	$(ON_JAX) $(PYTEST) -m "" tests/layers tests/models tests/training

# The same on PyTorch, which has an environment of its own: its wheel for CPUs is 190 MB, that of
# other indexes brings gigabytes of CUDA.
TORCH := .make/torch
torch: $(TORCH)/.installed
	OMP_NUM_THREADS=1 KERAS_BACKEND=torch $(TORCH)/bin/python -m pytest -n 2 --dist loadfile \
		tests/layers tests/models tests/training

$(TORCH)/.installed: requirements.txt
	$(PYTHON) -m venv $(TORCH)
	grep -vE '^(tensorflow|tf_keras|jax|libclang|ruff)' requirements.txt >$(TORCH)/requirements.txt
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement $(TORCH)/requirements.txt
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check $(CPU_TORCH) 2>/dev/null || \
		$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check $(CPU_TORCH) \
		--extra-index-url https://download.pytorch.org/whl/cpu
	touch $@

CPU_TORCH := torch==2.13.0+cpu

# The documentation as a site, .make/site/index.html. Its tools have an environment of their own.
DOCS := .make/docs
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build

$(DOCS)/.installed: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement requirements-docs.txt
	touch $@

# Time and memory beside other programs, into docs/performance.md.
# These have an environment of their own; QUICK=--quick only tries whether all of them run.
BENCH := .make/bench
bench: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/bench.py $(QUICK)

$(BENCH)/.installed: requirements.txt requirements-bench.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement requirements.txt --editable .
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement requirements-bench.txt 2>/dev/null || \
		$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement requirements-bench.txt --extra-index-url https://download.pytorch.org/whl/cpu
	touch $@

# Spoilt files of every format through the program's readers; `make test` tries a small share.
fuzz: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --inputs 12000

# Every long command killed 200 times, on full disks and twice at once; "make test" has a small share.
faults: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py

# Known weaknesses of the packages in requirements.txt. The tool has an environment of its own. It
# says that none are known, too, where it could look nothing up: that is no answer.
AUDIT := .make/audit
audit:
	@mkdir -p .make; test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
		$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9" \
		2>/dev/null; } || { rm -rf $(AUDIT); \
		echo "audit: pip-audit cannot be installed; expected a network" >&2; exit 2; }
	@$(AUDIT)/bin/pip-audit --requirement requirements.txt --no-deps --disable-pip \
		--progress-spinner off >$(AUDIT).txt 2>&1; status=$$?; \
		missed=$$(grep -c "could not be audited" $(AUDIT).txt); \
		if [ $$missed -gt 0 ] || grep -qE "ConnectionError|ServiceError|Timeout" $(AUDIT).txt; then \
		echo "audit: found no answer for $$missed or more packages; expected a network that reaches pypi.org" >&2; \
		exit 2; fi; cat $(AUDIT).txt; exit $$status

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
		--requirement requirements.txt --editable .
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .ruff_cache .import_linter_cache
