# make demo: fetch the demo model, build, and run the main job on the example data.
# make test: run every test.
# CONTRIBUTING.md has the others.

PYTHON ?= python3
CARGO ?= cargo
# A model of your own for `make demo`; the demo model if empty.
MODEL ?=
# A folder of other people's preference data for the parity tests, if there is one, and how many
# of its rows are compared: every n-th.
DATA ?= ../shared/data
EVERY ?= 8

# One set of features for building and testing, so that nothing is compiled twice.
FEATURES := --workspace --features datafusion-ches/cluster,datafusion-ches/delta
# Left out of `make lint`: they take CUDA's compiler, or macOS.
NOT_LINTED := cuda flash-attn metal
ALL_FEATURES := $(shell sed -n '/^\[features\]/,/^\[dep/s/^\([a-z-]*\) = .*/\1/p' Cargo.toml)
LINTED := $(patsubst %,--features datafusion-ches/%,$(filter-out default $(NOT_LINTED),$(ALL_FEATURES)))
WHEEL_FEATURES := --features datafusion-ches/cluster,datafusion-ches/delta
# What is timed.
OPTIMISED := --config profile.dev.package.datafusion-ches.opt-level=3
CHES := target/debug/ches
GOLDENS := tests/goldens

.PHONY: demo test full docs examples build model bench gpu-check validate goldens example-data format spelling deny lint embedder-tree features msrv

demo:
	@[ -x $(CHES) ] || echo "Compiling some 600 crates first: about half an hour on two cores, a few minutes on sixteen."
	$(CARGO) build $(FEATURES) --bin ches
	@model="$(MODEL)"; [ -n "$$model" ] || model=$$($(PYTHON) scripts/fetch_demo_model.py) && \
	set -x && $(CHES) --model "$$model" -q -f examples/quickstart.sql

build:
	$(CARGO) build $(FEATURES)

model:
	@$(PYTHON) scripts/fetch_demo_model.py

test:
	@model=$$($(PYTHON) scripts/fetch_demo_model.py) || exit 1; \
	python=$$($(PYTHON) scripts/test_tools.py) || exit 1; export CHES_TEST_PYTHON="$$python"; \
	[ ! -d "$(DATA)" ] || export CHES_TEST_DATA="$(abspath $(DATA))" CHES_TEST_DATA_EVERY=$(EVERY); \
	export CHES_TEST_MODEL="$$model"; \
	$(CARGO) test $(FEATURES) --lib --bins --tests && $(CARGO) test $(FEATURES) --doc && \
	$(PYTHON) scripts/test_wheel.py $(WHEEL_FEATURES)

# What takes too long for every change: all rows of DATA, jobs that are killed more often, what gpu_check does
# without a card, the lints of rustdoc, every feature alone, and the oldest Rust.
full:
	CHES_TEST_FULL=1 $(MAKE) test EVERY=1
	$(CARGO) build $(FEATURES) --example gpu_check && target/debug/examples/gpu_check --device cpu-tensors
	$(MAKE) lint
	$(MAKE) features
	$(MAKE) msrv

# The pages of docs as a book, in target/book. Needs mdbook.
docs:
	$(PYTHON) scripts/book.py

# All examples compile; those that embed the plugin run, with the demo model.
examples:
	$(CARGO) build $(FEATURES) --examples
	@model=$$($(PYTHON) scripts/fetch_demo_model.py) || exit 1; set -ex; \
	for example in embed own_catalog delta_lake; do "target/debug/examples/$$example" "$$model"; done

bench:
	$(CARGO) build $(FEATURES) $(OPTIMISED) --bins --example matmul_peak --example throughput --example cluster_throughput
	@model=$$($(PYTHON) scripts/fetch_demo_model.py) || exit 1; \
	$(PYTHON) bench/bench.py --ches $(CHES) --matmul-peak target/debug/examples/matmul_peak \
	  --model "$$model" --data "$(DATA)" && \
	$(PYTHON) bench/loading.py --ches $(CHES) && \
	$(PYTHON) bench/reading.py --ches $(CHES) && \
	target/debug/examples/throughput && target/debug/examples/cluster_throughput

# A folder that checks a GPU: its numbers, its speed, how it bears little memory (docs/gpu.md). Takes nvcc, or
# CUDA_BUILD; an hour or less.
gpu-check:
	$(PYTHON) scripts/gpu_check.py

# Trains on pairs one by one and compares with what was predicted: half an hour or more. Needs torch,
# transformers, gguf and pyarrow.
validate:
	$(CARGO) build $(FEATURES) $(OPTIMISED) --bins
	@model="$(MODEL)"; [ -n "$$model" ] || model=$$($(PYTHON) scripts/fetch_demo_model.py) || exit 1; \
	$(PYTHON) bench/validate.py --ches $(CHES) --model "$$model" --data "$(DATA)"

# Needs torch, transformers, accelerate, gguf, sentencepiece, pyarrow, trl, pandas, polars, duckdb, datasets and
# zstandard.
goldens:
	$(PYTHON) $(GOLDENS)/make_families.py $(GOLDENS)/families
	$(PYTHON) $(GOLDENS)/make_gguf.py $(GOLDENS)/families $(GOLDENS)/gguf
	$(PYTHON) $(GOLDENS)/make_displacement.py families $(GOLDENS)/families
	$(PYTHON) $(GOLDENS)/make_templates.py $(GOLDENS)/templates.json
	$(PYTHON) $(GOLDENS)/make_folders.py $(GOLDENS)/families/llama/model $(GOLDENS)/folders.jsonl
	$(PYTHON) $(GOLDENS)/make_tables.py $(GOLDENS)/tables
	$(PYTHON) $(GOLDENS)/make_trl.py $(GOLDENS)/families/llama/model $(GOLDENS)/trl.jsonl $(GOLDENS)/trl.parquet \
	  $(GOLDENS)/beside.jsonl $(GOLDENS)/beside.parquet
	@model=$$($(PYTHON) scripts/fetch_demo_model.py) || exit 1; set -ex; \
	$(PYTHON) $(GOLDENS)/make_rows.py "$$model" $(GOLDENS)/rows.json $(GOLDENS)/rows.golden.jsonl; \
	$(PYTHON) $(GOLDENS)/make_scores.py "$$model" examples/data/preferences.parquet $(GOLDENS)/preferences.jsonl; \
	$(PYTHON) $(GOLDENS)/make_displacement.py smollm2 "$$model" examples/data/preferences.parquet $(GOLDENS)/displacement.jsonl; \
	$(PYTHON) $(GOLDENS)/make_displacement.py no_never "$$model" $(GOLDENS)/no_never.jsonl; \
	for name in standard conversational; do \
	  [ ! -f "$(DATA)/$$name.parquet" ] || \
	  $(PYTHON) $(GOLDENS)/make_scores.py "$$model" "$(DATA)/$$name.parquet" $(GOLDENS)/$$name.jsonl; \
	done

# examples/data/preferences.parquet from preferences.jsonl
example-data: build
	$(CHES) -q -f examples/data/build.sql

format:
	$(CARGO) fmt --all --check

spelling:
	$(PYTHON) scripts/spelling.py

# Licences and sources of dependencies. Needs cargo-deny.
deny:
	$(CARGO) deny check licenses bans sources

lint: format spelling embedder-tree
	$(CARGO) clippy --workspace $(LINTED) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace $(LINTED) --lib --no-deps

# What an embedder compiles has nothing of the command.
embedder-tree:
	@tree=$$($(CARGO) tree --edges normal --prefix none -p datafusion-ches) || exit 1; \
	echo "$$tree" | grep -q '^candle-core ' || { echo "no dependency tree" >&2; exit 1; }; \
	if echo "$$tree" | grep -E '^(clap|datafusion-cli|indicatif|rustyline|aws-|hyper|reqwest)'; \
	then echo "the embedder's dependency tree has parts of the command (above)" >&2; exit 1; fi

# Every feature of the crate alone compiles without a warning.
features:
	@set -ex; for feature in default remote cli cluster delta; do \
	  RUSTFLAGS="-D warnings" CARGO_TARGET_DIR=target/features $(CARGO) check -q -p datafusion-ches --features $$feature; \
	done

# What Cargo.toml calls the oldest Rust compiles all but `delta`. Needs rustup.
msrv:
	@rust=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) && set -x && \
	rustup toolchain install "$$rust" --profile minimal && \
	CARGO_TARGET_DIR=target/msrv $(CARGO) "+$$rust" check --workspace --features datafusion-ches/cluster
