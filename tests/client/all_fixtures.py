#!/usr/bin/env python3
"""Sends every fixture to a worker: runs index_fixture.py once for each.

tests/fixtures/README.md says which expected records belong to a Chronik fixture. A fixture that is missing in this file
is an error, because it would not be sent.
"""

import sys
from pathlib import Path

import index_fixture

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ORDERS = ("orders", 3)

# Chronik's fixtures: their contents by partition, and whether the caller must name the partition (V1) or the bytes do
# (V2).
CHRONIK = {
    "empty": ({}, False),
    "v1": ({ORDERS: ["none"]}, True),
    "v1-then-v2": ({ORDERS: ["none", "gzip"]}, True),
    "v1-zero-length-crc": ({ORDERS: ["none"]}, True),
    "v2-frames-out-of-order": ({ORDERS: ["none"]}, False),
    "v2-gaps": ({ORDERS: ["gaps"]}, False),
    "v2-gzip": ({ORDERS: ["gzip"]}, False),
    "v2-none": ({ORDERS: ["none"]}, False),
    "v2-old-shape": ({ORDERS: ["zstd"]}, False),
    "v2-one-record": ({ORDERS: ["one-record"]}, False),
    "v2-snappy": ({ORDERS: ["snappy"]}, False),
    "v2-three-partitions": ({("orders", 0): ["none"], ("orders", 1): ["gzip"], ("audit.events_eu", 7): ["zstd"]}, False),
    "v2-times-unordered": ({ORDERS: ["times-unordered"]}, False),
    "v2-transactional": ({ORDERS: ["transactional"]}, False),
    "v2-zero-length-crc": ({ORDERS: ["gzip"]}, False),
    "v2-zstd": ({ORDERS: ["zstd"]}, False),
}


def calls(address):
    """Yields the arguments of index_fixture.py for each fixture."""
    for path in sorted(FIXTURES.glob("kafka/*.log")):
        # A name that must be encoded in keys.
        topic = f"t~ ü/{path.stem}"
        expected = path.with_suffix(".expected.json")
        held = [expected] if expected.exists() else []
        yield [address, path, *held, "--topic", topic, "--partition", 2, "--log-id", "cl/us ter"]
    for path in sorted(FIXTURES.glob("chronik/*.wal")):
        held, told = CHRONIK[path.stem]
        named = [
            f"{topic}/{partition}={FIXTURES / 'kafka' / name}.expected.json"
            for (topic, partition), names in held.items()
            for name in names
        ]
        yield [address, path, *named, *(["--topic", ORDERS[0], "--partition", ORDERS[1]] if told else [])]


def main():
    if len(sys.argv) != 2:
        print("usage: all_fixtures.py HOST:PORT", file=sys.stderr)
        return 2
    failed = sent = 0
    for call in calls(sys.argv[1]):
        name = call[1].relative_to(FIXTURES)
        print(f"--  {name}")
        sent += 1
        failed += index_fixture.main([str(argument) for argument in call]) != 0
    print(f"{sent - failed} of {sent} fixtures as expected")
    return 1 if failed or sent == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
