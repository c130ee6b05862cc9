# The front door: make demo · make test · make lint · make bench · make soak · make fuzz · make clean
# Needs Python >= 3.11 and the package registry; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo test lint bench bench-check soak fuzz clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -2

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hffnet needs Python >= 3.11; PYTHON=python3.12 make …" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
# Only for its copy of Triton's schema; what it asks for is older than what onnx has.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps tritonclient==2.73.0
	@touch $@

demo: $(INSTALLED)
	$(BIN)/hffnet demo --out demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest

bench: $(INSTALLED)
	$(BIN)/python -m tests.bench.run

# Against tests/bench/baseline.json, as ratios of one run; `--store` makes a new one.
bench-check: $(INSTALLED)
	$(BIN)/python -m tests.bench.check

# 20 minutes of two services watched for growth, then the long fault tests (200 kills); make soak MINUTES=1440 for a day
MINUTES ?= 20
soak: $(INSTALLED)
	$(BIN)/python -m tests.bench.soak --minutes $(MINUTES)
	$(BIN)/pytest -m soak

# Look for inputs that break the readers of frames, metadata and bundles, so many seconds each (x86_64: atheris)
SECONDS ?= 60
fuzz: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS)

clean:
	rm -rf .venv demo build .mypy_cache .ruff_cache .pytest_cache .hypothesis
