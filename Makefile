# make run     the server from a fresh checkout, on port 2525 with its spool in ./spool
# make test    all tests of the program, installing what they need (root on Debian; by hand, what is missing is skipped and said)

VENV := .venv
BIN := $(VENV)/bin
PORT := 2525
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help run test setup lint test-unit test-protocol test-network test-hosts test-hosts-nightly test-newest test-lowest test-vagrant test-kills test-crash test-cluster test-cluster-small bench-cluster deb bench clean

help:  ## What can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

run: $(BIN)/smtpmail  ## Serve dom.fr on port 2525 with the spool in ./spool
	@echo 'The first message, from another terminal:   swaks --server localhost:$(PORT) --to bob@dom.fr'
	@echo '                        or without swaks:   curl smtp://localhost:$(PORT) --mail-from me@dom.fr --mail-rcpt bob@dom.fr -T README.md'
	@echo 'It will lie in spool/bob/1, its state in spool/bob/1.status.   Ctrl-C stops the server.'
	@exec $(BIN)/smtpmail --spool ./spool -s dom.fr --port $(PORT)

# The slowest come last. The suites of the network and of hosts have needs of their own and install them themselves.
# Those of virtual machines and of the night are apart.
test: setup lint test-unit test-protocol test-network test-cluster-small test-hosts  ## All tests (three quarters of an hour)

setup: $(VENV)/tests-installed
	tests/setup packages

lint: $(VENV)/tests-installed  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-unit: $(VENV)/tests-installed  ## The parts, without processes
	$(PYTEST) tests/unit -n 2 --cov=smtpmail --cov-report=term:skip-covered

test-protocol: $(VENV)/tests-installed  ## The real program, programs that others wrote, crashes
	$(PYTEST) tests/protocol tests/crash -n 2

test-network: $(VENV)/tests-installed  ## Networks of namespaces, with other mail servers
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/network/run

test-cluster-small: $(VENV)/tests-installed  ## Several hosts on a GlusterFS volume, in namespaces (four minutes)
	tests/cluster/run

test-hosts: $(VENV)/tests-installed  ## Hosts with systemd, set up by the Ansible role and by the package (a quarter of an hour)
	tests/hosts/run

test-hosts-nightly: $(VENV)/tests-installed  ## Hosts that take too long for each change (an hour)
	tests/hosts/run nightly

test-newest:  ## Unit and protocol tests with the newest Python that can be had
	tests/newest

test-lowest:  ## Unit tests with the oldest dependencies that are claimed to be enough
	tests/lowest

test-vagrant:  ## Virtual machines by `vagrant up`, and power cuts; not a part of `make test`
	tests/vagrant/run

deb:  ## A package for Debian 13 in dist/, built and judged (lintian) in a clean Debian
	packaging/deb

test-kills: $(VENV)/tests-installed  ## 1,000 SIGKILLs under load, several servers side by side (a quarter of an hour on a quiet machine)
	PYTHONPATH=tests $(BIN)/python -m tests.crash

test-crash: test-kills  ## The same, and 50 power cuts (an hour; the small form of both is a part of `make test`)
	SMTPMAIL_CUTS=50 $(PYTEST) -s tests/crash/test_power.py

test-cluster: $(VENV)/tests-installed  ## Servers, mounts, bricks and networks of a GlusterFS cluster go away, a hundred times each (hours)
	tests/cluster/run long

bench: setup  ## Speed side by side with Postfix, in the same run (about ten minutes on a quiet machine)
	$(BIN)/python -m tests.bench

bench-cluster: setup  ## Messages a second on one host and two, beside Postfix with Maildir, on one GlusterFS volume
	tests/cluster/setup
	PYTHONPATH=tests $(BIN)/python -m tests.cluster.bench

$(BIN)/smtpmail: pyproject.toml
	tests/setup venv $(VENV) .
	@touch $@

$(VENV)/tests-installed: pyproject.toml
	tests/setup venv $(VENV) '.[test]'
	@touch $@

clean:  ## Remove what was made here, never the spool
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
