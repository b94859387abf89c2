PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OTHERS := .pytest_cache/others
# After the tests on the standing cluster, so that both halves of the suite take about as long.
SECOND := tests/codecs tests/gpu tests/jobs/training/test_train.py

# Python compiles a module when it is first imported, and keeps the result for all other processes.
unexport PYTHONDONTWRITEBYTECODE

# uv takes a third of the time of pip, but does not read its settings, such as the address of a mirror.
install = { $(BIN)/uv pip install --quiet --python $(BIN)/python $(1) || $(BIN)/python -m pip install --quiet $(1); }

.PHONY: demo test check lint types format bench clean

## Pack the sample speech, tokenize it through Ray, show what came out, decode some of it and make a
## page to listen to.
demo: $(STAMP)
	$(BIN)/speechmill pack samples/manifest.jsonl demo/shards shard_mb=0.4
	$(BIN)/speechmill tokenize configs/tokenize/demo.yaml
	$(BIN)/speechmill status demo/tokens
	$(BIN)/python samples/show_tokens.py demo/tokens
	$(BIN)/speechmill decode demo/tokens demo/decoded --limit 8
	$(BIN)/speechmill evaluate configs/evaluate/demo.yaml max_clips=4 'metrics.signal=[mel]'
	@echo 'Listen: demo/evaluation/report.html plays four clips and what is left of them at four bit rates.'

## The whole suite, with a real S3 server (installed if that is allowed). Tests on the standing Ray
## cluster often wait, so most others run at the same time, with one thread each; the output of these
## others comes at the end.
test: $(STAMP)
	@mkdir -p $(OTHERS)
	@export OMP_NUM_THREADS=1; first="--durations=25 $(addprefix --ignore=,$(SECOND))"; \
	$(BIN)/pytest $$first -m "not cluster" -o cache_dir=$(OTHERS) > $(OTHERS)/log 2>&1 & others=$$!; \
	$(BIN)/pytest $$first -m cluster; cluster=$$?; \
	$(BIN)/pytest --durations=25 $(SECOND); second=$$?; \
	wait $$others; others=$$?; \
	cat $(OTHERS)/log; exit $$((cluster | second | others))

## Format, lint, types.
check: lint types

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

## Decode and feed throughput against Ray Data and a bare loop; takes minutes.
bench: $(STAMP)
	$(BIN)/python -m tests.bench.feed

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Speechmill needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	-$(BIN)/python -m pip install --quiet uv
	$(call install,--editable '.[dev]')
	$(call install,'pesq>=0.0.4') || echo 'PESQ is left out: it is built with a C compiler and the headers of Python'
	touch $@

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache dist
