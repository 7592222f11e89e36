# make run     the server from a fresh checkout, on port 2525 with its spool in ./spool
# make test    all tests of the program, installing what they need (root on Debian; by hand, what is missing is skipped and said)

VENV := .venv
BIN := $(VENV)/bin
PORT := 2525
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help run test setup lint test-unit test-protocol test-network test-hosts test-vagrant bench clean

help:  ## What can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

run: $(BIN)/smtpmail  ## Serve dom.fr on port 2525 with the spool in ./spool
	@echo 'The first message, from another terminal:   swaks --server localhost:$(PORT) --to bob@dom.fr'
	@echo '                        or without swaks:   curl smtp://localhost:$(PORT) --mail-from me@dom.fr --mail-rcpt bob@dom.fr -T README.md'
	@echo 'It will lie in spool/bob/1, its state in spool/bob/1.status.   Ctrl-C stops the server.'
	@exec $(BIN)/smtpmail --spool ./spool -s dom.fr --port $(PORT)

# The slowest come last. The suite of the network has needs of its own and installs them itself; so do those of hosts and
# of virtual machines, which are not a part of this yet: see docs/deploy.md and vagrant/README.md.
test: setup lint test-unit test-protocol test-network  ## All tests of the program

setup: $(VENV)/tests-installed
	tests/setup packages

lint: $(VENV)/tests-installed  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-unit: $(VENV)/tests-installed  ## The parts, without processes
	$(PYTEST) tests/unit

test-protocol: $(VENV)/tests-installed  ## The real program, and programs that others wrote
	$(PYTEST) tests/protocol

# A suite that is not there yet says so; one that is there must pass.
define run-suite
	@if [ -x $(1)/run ]; then echo '$(1)/run'; PATH="$(CURDIR)/$(BIN):$$PATH" $(1)/run; \
	else echo '$(1)/run: not there'; fi
endef

test-network: $(VENV)/tests-installed  ## Networks of namespaces, with other mail servers
	$(call run-suite,tests/network)

test-hosts: $(VENV)/tests-installed  ## Hosts with systemd, set up by the Ansible role; not a part of `make test` yet
	$(call run-suite,tests/hosts)

test-vagrant: $(VENV)/tests-installed  ## Virtual machines by `vagrant up`; not a part of `make test`
	$(call run-suite,tests/vagrant)

bench: setup  ## Speed side by side with Postfix, in the same run (about ten minutes on a quiet machine)
	$(BIN)/python -m tests.bench

$(BIN)/smtpmail: pyproject.toml
	tests/setup venv $(VENV) .
	@touch $@

$(VENV)/tests-installed: pyproject.toml
	tests/setup venv $(VENV) '.[test]'
	@touch $@

clean:  ## Remove what was made here, never the spool
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
