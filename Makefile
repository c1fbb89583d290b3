# `make run` sets up what runs the hub and starts it; `make test` sets up and passes every test.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# One environment in two stages: what runs the hub, and on top of it what tests it. The locks agree on versions.
RUN_STAMP := $(VENV)/.ready-run
DEV_STAMP := $(VENV)/.ready
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: run setup test check lint docs manifests manifests-audit audit sbom image-size bench chaos lock otelcol database clean

run: $(RUN_STAMP)
	@exec $(BIN)/interlink up

setup: $(DEV_STAMP)

$(RUN_STAMP): requirements-run.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Interlink needs Python 3.11 or newer: install it, or run 'make $(MAKECMDGOALS) PYTHON=/path/to/python3.11'." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r requirements-run.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_STAMP): requirements-dev.lock $(RUN_STAMP)
	$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

# The types are checked beside the tests, which leave a core idle at times; what mypy found comes last. That every
# provider passes its checks is one of the tests.
# Bytecode is cached even where the environment says otherwise: the hundreds of processes import the same modules.
test: export PYTHONDONTWRITEBYTECODE =
test: setup lint
	@mkdir -p .cache; $(BIN)/mypy >.cache/mypy.log 2>&1 & mypy=$$!; \
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder; tests=$$?; \
	if [ $$tests = 1 ]; then $(BIN)/python .ci/again.py; tests=$$?; fi; \
	wait $$mypy; mypy=$$?; cat .cache/mypy.log; exit $$((tests || mypy))

check: lint
	$(BIN)/mypy
	$(BIN)/interlink provider check

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python .ci/vocabulary.py

# The documentation site, in build/docs/site. It needs no network.
docs: setup
	$(BIN)/python -m docs.generator

# The schema of the Helm chart's settings, and the manifests of deploy/kubernetes, after a change of either. Needs Maven
# once: it fetches Helm as a library.
manifests: setup
	$(BIN)/python -m tests.deploy.chart

# What checkov finds in the manifests, in an environment of its own, and kube-linter, if it is on the PATH.
# deploy/helm/kube-linter.yaml explains what is not followed.
manifests-audit: setup
	$(BIN)/uv tool run --from checkov==3.3.30 checkov --framework kubernetes -d deploy/kubernetes --compact --quiet --skip-download
	@if command -v kube-linter >/dev/null; then kube-linter lint --config deploy/helm/kube-linter.yaml deploy/kubernetes; \
	else echo "skipped: kube-linter is not on the PATH"; fi

# Known vulnerabilities of what is locked; skipped, with its reason, where nobody can be asked.
audit: setup
	$(BIN)/python .ci/audit.py

# The bill of materials of the image (CycloneDX), and its licenses as a table, in build/.
sbom: setup
	$(BIN)/python .ci/sbom.py

# The size of what the image holds, built without a container engine: needs root and debootstrap.
image-size: setup
	.ci/image-size

bench: setup
	$(BIN)/python -m bench

# Ten minutes of faults under load; CHAOS="--minutes 60 --rate 100" for more.
chaos: setup
	$(BIN)/python -m tests.chaos $(CHAOS)

# The OpenTelemetry Collector, for the test of traces that needs a real one: minutes the first time, with Go 1.25.
otelcol:
	@mkdir -p .cache/otelcol
	cd tests/support/otelcol && go build -trimpath -o ../../../.cache/otelcol/otelcol .

# SecantusDB's server in Rust, for benches and chaos runs: minutes the first time, with Rust 1.95. It is put where cargo puts
# programs. The crate asks for a newer Rust than it needs.
SECANTUSD := 0.5.3-beta.196
database:
	@secantusd-rs --version 2>/dev/null | grep -qx 'secantusd-rs $(SECANTUSD)' || \
	cargo install --quiet secantus-mdb --version $(SECANTUSD) --locked --ignore-rust-version

# requirements.lock is what the image has, the extra `otel` included. -run adds the embedded broker and database, and
# what installs the project; -dev adds what tests it. Each is a constraint of the next, so that all have the same versions.
lock: setup
	$(COMPILE) --extra otel pyproject.toml -o requirements.lock
	$(COMPILE) -c requirements.lock --extra embedded --group build pyproject.toml -o requirements-run.lock
	$(COMPILE) -c requirements-run.lock --extra embedded --extra otel --group dev pyproject.toml -o requirements-dev.lock

# The data folder stays: its encryption key and its store are nowhere else. `rm -r .interlink` begins anew.
clean:
	rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
