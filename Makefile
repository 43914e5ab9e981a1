# The entry points; `make help` lists them. A machine with Python >= 3.11 and gcc is enough.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SPEC   ?= build_configs/smollm2/smollm2_135m_w4.yaml
TARGET ?=
PROMPT ?= What is a compiler? Answer in one sentence.
ARTIFACT ?=
WHEELHOUSE ?= wheelhouse
WHEELS ?=
XDIST  ?= 2
# The tier that pays most for its time: tiny models, proofs and goldens. Mutations, which run every pass many times over,
# ranks, compiles and tests of processes are left to `make test`.
QUICK  := tests/errors tests/model tests/ir tests/artifact tests/passes/graph tests/passes/test_*.py tests/verify \
          tests/compiler/spec tests/compiler/plan tests/compiler/stages tests/targets/vacc tests/targets/ascend \
          tests/runtime/test_[a-m]*.py tests/runtime/test_s*.py \
          $(addprefix --ignore=tests/,passes/graph/test_mutations.py passes/graph/test_shard.py \
          passes/graph/test_shard_mutations.py passes/graph/test_static_families.py compiler/spec/test_stdin.py \
          verify/test_real_weights.py verify/test_kv_calibration.py verify/test_streamed_reference.py \
          runtime/test_machine.py)

.PHONY: help venv wheelhouse compile test test-quick test-levels test-wide-levels lint format golden bench bench-long verify scale reliability clean

help: ## this list
	@awk -F ':.*## ' -v columns="$${COLUMNS:-$$(tput cols 2>/dev/null || echo 100)}" ' \
	  /^[A-Za-z0-9_-]+:.*## / { names[++count] = $$1; texts[count] = $$2; if (length($$1) > widest) widest = length($$1) } \
	  END { indent = widest + 8; \
	    for (i = 1; i <= count; i++) { \
	      printf "  make %-" widest "s ", names[i]; at = indent; words = split(texts[i], word, " "); \
	      for (j = 1; j <= words; j++) { \
	        if (j > 1 && at + 1 + length(word[j]) > columns) { printf "\n%" indent "s", ""; at = indent } \
	        else if (j > 1) { printf " "; at++ } \
	        printf "%s", word[j]; at += length(word[j]) } \
	      printf "\n" } }' $(firstword $(MAKEFILE_LIST))

# Installed once, and again when a pin or an extra changes.
$(STAMP): pyproject.toml constraints.txt tools/bootstrap.py
	@$(PYTHON) tools/bootstrap.py $(VENV)
	@touch $@

venv: $(STAMP) ## create .venv with the pinned packages (never a CUDA build of PyTorch)

wheelhouse: $(STAMP) ## fill WHEELHOUSE (default: wheelhouse) for installing offline; WHEELS=runtime takes the base alone
	@$(BIN)/python -m tools.wheelhouse $(VENV) $(WHEELHOUSE) $(WHEELS)

compile: $(STAMP) ## compile SPEC (and TARGET), then let the model answer PROMPT
	@$(BIN)/python tools/compile_and_answer.py $(SPEC) $(if $(TARGET),--target $(TARGET)) --prompt "$(PROMPT)"

test: $(STAMP) ## the whole test suite; JUNIT=FILE also writes JUnit XML, XAMC_TEST_LEVEL=LEVEL runs it as on another CPU
	@OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n $(XDIST) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(if $(JUNIT),--junitxml=$(JUNIT)) $(if $(RECORD),-p tools.reliability.suite) $(PYTEST_ARGS)

test-quick: $(STAMP) ## the tests that pay most for their time, in less than two minutes
	@$(MAKE) --no-print-directory test PYTEST_ARGS="$(QUICK)"

test-levels: $(STAMP) ## every kernel family on x86-64 to x86-64-v3 and, under QEMU's user-mode emulator, on aarch64
	@$(BIN)/python -m tools.levels narrow

test-wide-levels: $(STAMP) ## every kernel family with AVX-512, VNNI and BF16 on a machine that Bochs emulates
	@$(BIN)/python -m tools.levels wide

lint: $(STAMP) ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check xamc tests tools
	@$(BIN)/ruff format --check xamc tests tools
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(STAMP) ## let ruff lay out the code
	@$(BIN)/ruff format xamc tests tools
	@$(BIN)/ruff check --fix-only -q xamc tests tools

golden: $(STAMP) ## rewrite the expected IR and numbers under tests/golden; read the diff before committing
	@$(BIN)/python tools/golden.py

bench: $(STAMP) ## race other engines, measure fidelity (BENCH=vacc: VACC's graphs, BENCH=batch: batch decode); results go to docs/benchmarks/LEVEL
	@$(BIN)/python -m tools.bench$(if $(BENCH),.$(BENCH)) $(BENCH_ARGS)

bench-long: $(STAMP) ## decode speed and memory over contexts of up to 128k tokens on a 1.1B shape; takes an hour
	@$(BIN)/python -m tools.bench.long_context $(BENCH_ARGS)

verify: $(STAMP) ## re-check ARTIFACT's digests and golden logits (default: all below vacc_deploy)
	@for artifact in $(or $(ARTIFACT),$(wildcard vacc_deploy/*)); do $(BIN)/xamc verify $$artifact || exit $$?; done

scale: $(STAMP) ## compile a synthetic 8.8 B model within 3 GiB, and for VACC; takes long and 45 GB of disk
	@$(BIN)/python -m tools.scale $(SCALE_ARGS)

reliability: $(STAMP) ## kill compiles, fill disks, fuzz every format, and write docs/reliability.md; takes hours
	@$(BIN)/python -m tools.reliability --run $(RELIABILITY_ARGS)

clean: ## remove .venv, caches of the tools, and build leftovers (never vacc_deploy)
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
