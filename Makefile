# CXR Harness. `make help` lists the targets; every one works from a fresh clone and sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HARNESS := $(BIN)/harness
RUNS ?= runs
DATA ?=
GPU ?=
DEMO := demo
PEERS := $(DEMO)/peers
# Tests compute in one thread each; a file's tests stay together, for they share what takes long to make.
TEST_PROCESSES ?= 2
PERF_JSON := $(DEMO)/perf.json
# Films in class folders for `make mutants`; phantoms stand in where they are not.
FILMS ?= ../shared/data/cxr

# What exists for this machine: OpenVINO everywhere, LoadGen not as a wheel for Linux on ARM, TensorRT-RTX on Linux
# x86-64, TensorRT where asked for.
comma := ,
ON_LINUX_X86 := $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m))
ON_LINUX_ARM := $(filter Linux-aarch64,$(shell uname -s)-$(shell uname -m))
EXTRAS := test,openvino$(if $(ON_LINUX_ARM),,$(comma)load)$(if $(ON_LINUX_X86),$(comma)rtx)$(if $(GPU),$(comma)gpu)
STAMP := $(VENV)/.setup-$(subst $(comma),-,$(EXTRAS))

# Without DATA the phantoms stand in, and then random weights and the quick recipe: said loudly below.
TRAIN_DATA := $(or $(DATA),$(DEMO)/data)
TRAIN_OPTIONS := $(if $(DATA),,--recipe quick --weights random)

# What a target needs and nobody has made yet is made first, so that each works from a fresh clone.
NEEDS_RUNS := $(if $(wildcard $(RUNS)/*/run.json),,train-all)
NEEDS_EXPORT := $(if $(wildcard $(RUNS)/*/export/*.onnx),,export)
NEEDS_BENCH := $(if $(wildcard $(RUNS)/*/bench/*.json),,bench)

.PHONY: help setup setup-peers check test test-slow test-gpu demo mutants train-all export bench bench-train bench-peers bench-perf report clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: DATA=folder (data sets), RUNS=folder (default runs), FILMS=folder (mutants), GPU=1 (adds TensorRT and cuda-python)"

setup: $(STAMP) ## Create .venv with pinned packages and the runtimes for this machine

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[$(EXTRAS)]' -c constraints.txt
	@rm -f $(VENV)/.setup-* && touch $@

check: setup ## Format, lint, types, and the arrows between the packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## Everything that needs minutes only
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile

test-slow: setup ## What takes longer
	$(BIN)/pytest -m slow

test-gpu: setup ## What needs an NVIDIA GPU (set up with GPU=1)
	$(BIN)/pytest -m gpu

demo: setup ## The whole job on synthetic phantoms: data, eight cases, ONNX and engines, parity, time, report
	$(HARNESS) data demo $(DEMO)/data
	$(HARNESS) train all --data $(DEMO)/data --runs $(DEMO)/runs --recipe quick --weights random
	$(HARNESS) export --runs $(DEMO)/runs --trt
	@# The report is written also where a verdict failed, for it has the reasons; the exit code stays bench's.
	$(HARNESS) bench --runs $(DEMO)/runs --quick --batch 8; status=$$?; \
	$(HARNESS) report --runs $(DEMO)/runs && exit $$status
	@echo "SYNTHETIC PHANTOMS at 64 px: the report shows the pipeline at work, not what a model knows about films."

mutants: setup ## Damage a trained run's exports in every known way; the gate must notice, and accuse no rebuild
	$(BIN)/python -m tests.mutants --films $(FILMS) --work $(DEMO)/mutants

train-all: setup ## Train the eight cases on DATA (phantoms where none is given)
ifeq ($(DATA),)
	@echo "*** No DATA given: training on SYNTHETIC PHANTOMS from random weights with the quick recipe. ***"
	@echo "*** For the study's own protocol: make train-all DATA=folder-of-dataset1-and-dataset2        ***"
	$(HARNESS) data demo $(DEMO)/data
endif
	$(HARNESS) train all --data $(TRAIN_DATA) --runs $(RUNS) $(TRAIN_OPTIONS)

export: setup $(NEEDS_RUNS) ## Convert all runs to ONNX and TensorRT engines
	$(HARNESS) export --runs $(RUNS) --trt

bench: setup $(NEEDS_EXPORT) ## Prove parity of all artifacts, then time them
	$(HARNESS) bench --runs $(RUNS)

report: setup $(NEEDS_BENCH) ## Write report.md, report.json and report.csv
	$(HARNESS) report --runs $(RUNS)

bench-train: setup ## Our training beside the study's own way, on DATA (phantoms where none is given)
ifeq ($(DATA),)
	$(HARNESS) data demo $(DEMO)/data
endif
	$(BIN)/python -m train.benchmark $(TRAIN_DATA)

bench-peers: setup-peers ## Our clock beside benchmark_app, LoadGen and Polygraphy, and beside itself: 80 minutes
	$(BIN)/python -m bench.peers --work $(PEERS)

setup-peers: setup
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[peers]' -c constraints.txt

bench-perf: setup ## Our own benchmark suite: a call of each backend, the gate, its intervals, a report
	@mkdir -p $(dir $(PERF_JSON))
	$(BIN)/pytest tests/perf -m perf --benchmark-enable --benchmark-only --benchmark-json=$(PERF_JSON)

clean: ## Remove the demo and all caches; runs and data stay
	rm -rf $(DEMO) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .benchmarks build *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
