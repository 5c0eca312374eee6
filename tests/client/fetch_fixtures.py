#!/usr/bin/env python3
"""Sends every fixture to a worker and reads it back as consumers do: fetch_fixtures.py HOST:PORT

Records must be the fixture's expected ones, from several offsets on and page by page. Kafka batches must be the
producer's bytes, and kafka-python, an independent reader, must decode them with valid checksums. Search must count the
same records and find each key. Uses no code of the project: see README.md in this folder.
"""

import argparse
import base64
import importlib
import json
import re
import sys
from pathlib import Path

import grpc
from kafka.record import MemoryRecords

import all_fixtures
import index_fixture
from index_fixture import TIMEOUT_SECONDS, Mismatch, check

FIXTURES = all_fixtures.FIXTURES
# Keys that a quoted term of a query can contain without escapes.
PLAIN = re.compile(rb"[\w.-]+")


def fixtures():
    """Yields each fixture, its contents by partition (names of Kafka fixtures), and the partition to name."""
    for path in sorted(FIXTURES.glob("kafka/*.log")):
        told = ("t~ ü/fetched", 2)
        yield path, {told: [path.stem] if path.stat().st_size else []}, told
    for path in sorted(FIXTURES.glob("chronik/*.wal")):
        held, told = all_fixtures.CHRONIK[path.stem]
        yield path, held, all_fixtures.ORDERS if told else None


def expected_records(names, first_is_v1):
    """Returns the different records, by offset. V1 has no null value."""
    records = {}
    for nth, name in enumerate(names):
        for one in json.loads((FIXTURES / f"kafka/{name}.expected.json").read_text())["records"]:
            decoded = lambda text: None if text is None else base64.b64decode(text)
            value, headers = decoded(one["value"]), [(key, decoded(text)) for key, text in one["headers"]]
            if first_is_v1 and nth == 0:
                value, headers = value or b"", [(key, text or b"") for key, text in headers]
            time = None if one["timestamp"] == -1 else one["timestamp"]
            record = (one["offset"], time, decoded(one["key"]), value, headers)
            if record not in records.setdefault(one["offset"], []):
                records[one["offset"]].append(record)
    return [record for offset in sorted(records) for record in records[offset]]


def from_wire(record):
    def field(message, name):
        return getattr(message, name) if message.HasField(name) else None

    headers = [(header.name, field(header, "value")) for header in record.headers]
    return (record.offset, field(record, "timestamp_ms"), field(record, "key"), field(record, "value"), headers)


def from_kafka(record):
    time = None if record.timestamp == -1 else record.timestamp
    return (record.offset, time, record.key, record.value, [tuple(header) for header in record.headers])


class Reader:
    """Reads one log of one partition from one worker."""

    def __init__(self, search, stub, topic, partition, log_id):
        self.search, self.stub = search, stub
        self.asked = {"topic": topic, "partition": partition, "log_id": log_id}

    def fetch(self, offset, **more):
        """Returns an answer's records, its batches, and the next offset."""
        records, batches, last = [], b"", None
        request = self.search.FetchRequest(offset=offset, **self.asked, **more)
        for message in self.stub.Fetch(request, timeout=TIMEOUT_SECONDS):
            if last is not None:
                raise Mismatch("a message follows the one that says where to go on")
            records += map(from_wire, message.records)
            batches += message.kafka_batches
            if message.HasField("next_offset"):
                last = message
        check("conflicts", list(last.conflicts), [])
        return records, batches, last.next_offset

    def pages(self, **more):
        """Returns everything, page by page."""
        records, batches, offset = [], b"", 0
        while True:
            page, more_batches, next_offset = self.fetch(offset, **more)
            if not page and not more_batches:
                return records, batches
            if next_offset <= offset:
                raise Mismatch(f"next_offset {next_offset} after {offset}")
            records, batches, offset = records + page, batches + more_batches, next_offset

    def count(self, query):
        request = self.search.SearchRequest(
            filter=self.search.RecordFilter(**self.asked), query=query, count_only=True
        )
        return list(self.stub.Search(request, timeout=TIMEOUT_SECONDS))[-1].summary.matched


def check_records(reader, wanted):
    check("all records, page by page", reader.pages(max_records=7)[0], wanted)
    for offset in (wanted[0][0], wanted[len(wanted) // 2][0], wanted[-1][0], wanted[-1][0] + 1):
        found, _, _ = reader.fetch(offset, max_records=1_000_000, max_bytes=1 << 30)
        check(f"records from {offset}", found, [record for record in wanted if record[0] >= offset])
    check("records that Search counts", reader.count(""), len(wanted))
    keys = {record[2] for record in wanted if record[2] and PLAIN.fullmatch(record[2])}
    check("keys to look for", len(keys), index_fixture.Must("one at least", lambda count: count > 0))
    for key in keys:
        same = sum(record[2] == key for record in wanted)
        check(f"records that Search finds by key {key}", reader.count(f'key:"{key.decode()}"'), same)
    return f"{len(wanted)} records, {len(keys)} keys"


def check_batches(reader, form, names, wanted):
    batches = reader.pages(form=form, max_bytes=1)[1]
    check("batches", batches, b"".join((FIXTURES / f"kafka/{name}.log").read_bytes() for name in names))
    decoded, count, log = [], 0, MemoryRecords(batches)
    while log.has_next():
        batch, count = log.next_batch(), count + 1
        if not batch.validate_crc():
            raise Mismatch(f"kafka-python finds a wrong checksum in the batch at {batch.base_offset}")
        if not batch.is_control_batch:
            decoded += map(from_kafka, batch)
    check("records that kafka-python decodes", decoded, wanted)
    return f"{count} batches, the producer's bytes, decoded by kafka-python with valid checksums"


def check_no_batches(reader, form):
    try:
        reader.fetch(0, form=form)
    except grpc.RpcError as error:
        check("code", error.code(), grpc.StatusCode.FAILED_PRECONDITION)
        return "batches refused, since none were kept"
    raise Mismatch("batches where none were kept")


def check_fixture(channel, path, held, told):
    messages, stubs = index_fixture.compile_protos()
    search = importlib.import_module("walindexer.v1.search_pb2")
    stub = importlib.import_module("walindexer.v1.search_pb2_grpc").SearchServiceStub(channel)
    segment = argparse.Namespace(id=path.stem, data=path.read_bytes(), crc32c=index_fixture.crc32c(path.read_bytes()))
    header = argparse.Namespace(log_id=path.stem, topic=None, partition=None, chunk_bytes=4_093)
    if told:
        header.topic, header.partition = told
    indexer = stubs.IndexerServiceStub(channel)
    indexer.IndexSegment(index_fixture.requests(messages, segment, header), timeout=TIMEOUT_SECONDS)
    batches = search.FetchRequest.FETCH_FORM_KAFKA_BATCHES
    for (topic, partition), names in held.items():
        reader = Reader(search, stub, topic, partition, path.stem)
        is_v1 = path.stem.startswith("v1")
        wanted = expected_records(names, is_v1)
        if not wanted:
            check("records of an empty segment", reader.fetch(5), ([], b"", 5))
            continue
        yield check_records(reader, wanted)
        if is_v1 or path.stem == "v2-old-shape":
            yield check_no_batches(reader, batches)
        else:
            yield check_batches(reader, batches, names, wanted)


def main():
    if len(sys.argv) != 2:
        print("usage: fetch_fixtures.py HOST:PORT", file=sys.stderr)
        return 2
    failed = 0
    with grpc.insecure_channel(sys.argv[1]) as channel:
        grpc.channel_ready_future(channel).result(timeout=index_fixture.CONNECT_SECONDS)
        for path, held, told in fixtures():
            try:
                for line in check_fixture(channel, path, held, told):
                    print(f"ok  {path.relative_to(FIXTURES)}: {line}")
            except (Mismatch, grpc.RpcError) as error:
                failed += 1
                print(f"MISMATCH  {path.relative_to(FIXTURES)}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
