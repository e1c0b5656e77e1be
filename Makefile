# `make demo` and `make test` are all a newcomer needs; `make help` lists the rest.
#
#   BUILD=build         where everything is made       JOBS=N   how many compilers and tests at once
#   Torch_DIR=DIR       use the LibTorch there         PERCEIVER_TORCH=OFF   build without LibTorch
#                                                      (`make demo` always does, in build/inference)
#   CMAKE_OPTIONS=...   more options for cmake         PREFIX=DIR   where `make install` writes
BUILD ?= build
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PERCEIVER_TORCH ?= ON
CMAKE_OPTIONS ?=
PREFIX ?= /usr/local

export PERCEIVER_TORCH Torch_DIR CMAKE_PREFIX_PATH
program := $(BUILD)/bin/perceiver
inference := $(BUILD)/inference
python = $(firstword $(wildcard $(BUILD)/venv/bin/python) python3)
options := -DPERCEIVER_TORCH=$(PERCEIVER_TORCH) $(if $(Torch_DIR),-DTorch_DIR=$(Torch_DIR)) $(CMAKE_OPTIONS)

.DEFAULT_GOAL := help
.PHONY: help setup build inference test test-slow demo parity bench bench-scaling bench-training bench-gpu gates gates-update lint tidy format asan install clean FORCE

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(BUILD)/.setup/packages $(BUILD)/.setup/torch  ## install what is missing to build

build: $(BUILD)/build.ninja  ## build the program: build/bin/perceiver
	@ninja -C $(BUILD) -j $(JOBS) perceiver

inference: $(inference)/build.ninja  ## the program without LibTorch and training: build/inference/bin/perceiver
	@ninja -C $(inference) -j $(JOBS) perceiver

demo: inference  ## run the two shipped models on samples; writes build/demo.html
	$(inference)/bin/perceiver demo --page $(BUILD)/demo.html

test: $(BUILD)/build.ninja $(BUILD)/.setup/oracles  ## build everything and run the tests
	@ninja -C $(BUILD) -j $(JOBS)
	@tools/run_tests.sh $(BUILD) -j $(JOBS) -LE slow

test-slow: $(BUILD)/build.ninja $(BUILD)/.setup/oracles  ## the tests that take minutes each
	@ninja -C $(BUILD) -j $(JOBS)
	@tools/run_tests.sh $(BUILD) -j $(JOBS) -L slow

parity: build $(BUILD)/.setup/oracles  ## the six released configurations against transformers (writes docs/parity.md)
	$(python) tools/oracle/parity_full.py --program $(program)

bench: build $(BUILD)/.setup/oracles $(BUILD)/.setup/peers  ## time and memory against transformers, torch.compile, OpenVINO
	$(python) bench/run.py --program $(program)

bench-scaling: build $(BUILD)/.setup/oracles $(BUILD)/.setup/peers  ## time and memory against the number of inputs and outputs
	$(python) bench/scaling.py --program $(program)

bench-training: $(BUILD)/build.ninja $(BUILD)/.setup/oracles  ## time and memory of one training step against transformers
	@cmake -S . -B $(BUILD) -DPERCEIVER_BENCH=ON >/dev/null
	@ninja -C $(BUILD) -j $(JOBS) perceiver train_step
	$(python) bench/whole_step.py --program $(program)
	$(python) bench/train_step.py --program $(program) --step $(BUILD)/bin/train_step

bench-gpu: $(BUILD)/build.ninja $(BUILD)/.setup/oracles  ## forwards and training steps on a GPU; needs Torch_DIR of a CUDA LibTorch
	@cmake -S . -B $(BUILD) -DPERCEIVER_BENCH=ON >/dev/null
	@ninja -C $(BUILD) -j $(JOBS) perceiver train_step
	$(python) bench/gpu.py --program $(program) --step $(BUILD)/bin/train_step

gates: $(BUILD)/build.ninja  ## instruction counts of the hot paths against recorded ones (needs valgrind)
	@ninja -C $(BUILD) -j $(JOBS) gate_hot_paths
	@tools/run_tests.sh $(BUILD) -L gate

gates-update: $(BUILD)/build.ninja  ## record the counts of this build
	@ninja -C $(BUILD) -j $(JOBS) gate_hot_paths
	@PERCEIVER_BINARY_DIR=$(BUILD) PERCEIVER_COMPILER="$$(cat $(BUILD)/compiler.txt)" tests/gates/instructions_test.py --update

lint: $(BUILD)/build.ninja  ## formatting, layers, text rules
	@tools/lint $(BUILD)

tidy: $(BUILD)/build.ninja  ## clang-tidy on everything (slow)
	@tools/lint --tidy $(BUILD)

format:  ## rewrite the C++ files in the project's format
	@tools/lint --fix $(BUILD)

asan: $(BUILD)/.setup/packages  ## the rooms without LibTorch under the address and undefined-behaviour sanitizers
	@cmake -S . -B $(BUILD)/asan -G Ninja -DCMAKE_BUILD_TYPE=Debug -DPERCEIVER_TORCH=OFF \
	  "-DPERCEIVER_SANITIZE=address;undefined"
	@ninja -C $(BUILD)/asan -j $(JOBS)
	@tools/run_tests.sh $(BUILD)/asan -j $(JOBS) -LE slow

install: $(BUILD)/build.ninja  ## program, libraries and headers under PREFIX
	@ninja -C $(BUILD) -j $(JOBS)
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean:  ## remove what was compiled; the downloaded LibTorch stays
	@test ! -e $(BUILD)/build.ninja || ninja -C $(BUILD) -t clean

# What was set up is remembered by stamps, so that a second run goes straight to ninja.
$(addprefix $(BUILD)/.setup/,program packages torch): $(BUILD)/.setup/%: tools/setup.sh
	@sh tools/setup.sh $* $(BUILD)
	@touch $@

$(BUILD)/.setup/torch: $(BUILD)/.setup/options | $(BUILD)/.setup/packages

$(BUILD)/.setup/oracles $(BUILD)/.setup/peers: $(BUILD)/.setup/%: tools/setup.sh | $(BUILD)/.setup/torch
	@if sh tools/setup.sh $* $(BUILD); then touch $@; fi

# Rewritten only when the options differ from those of the last run.
$(BUILD)/.setup/options: FORCE
	@mkdir -p $(@D)
	@echo '$(strip $(options))' | cmp -s - $@ || echo '$(strip $(options))' > $@

$(BUILD)/build.ninja: $(BUILD)/.setup/options | $(BUILD)/.setup/packages $(BUILD)/.setup/torch
	@cmake -S . -B $(BUILD) -G Ninja $(options)

$(inference)/build.ninja: | $(BUILD)/.setup/program
	@cmake -S . -B $(inference) -G Ninja -DPERCEIVER_TORCH=OFF -DPERCEIVER_TESTS=OFF \
	  -DPERCEIVER_UNITY=ON $(CMAKE_OPTIONS)
