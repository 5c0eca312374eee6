.PHONY: bench

# The whole path beside a bare indexing loop: see docs/performance.md. Takes some minutes and all cores.
bench:
	cargo bench --bench whole_path
