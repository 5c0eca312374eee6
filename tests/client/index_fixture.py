#!/usr/bin/env python3
"""Sends a fixture to a worker and checks every field of the reply.

Uses no code of the project: the client is generated from proto/ at the start, and the expected reply is computed here
from the fixture's bytes and its expected records. README.md in this folder shows how to call it.
"""

import argparse
import functools
import hashlib
import importlib
import json
import struct
import sys
import tarfile
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import grpc
import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[2] / "proto"
SERVICES = ["walindexer.v1.IndexerService", "grpc.health.v1.Health"]
GAPS_IN_REPLY_MAX = 1_000
CONNECT_SECONDS = 10
TIMEOUT_SECONDS = 60


class Mismatch(Exception):
    """A value differs from the expected one."""


class Must:
    """A condition, in place of a value that cannot be known in advance."""

    def __init__(self, text, test):
        self.text, self.test = text, test

    def __repr__(self):
        return self.text


# The reply's fields about frames without anomalies.
SOUND = {"anomalies": Must("no anomalies", lambda kinds: len(kinds) == 0), "undecoded": None}


@functools.cache
def compile_protos():
    """Returns the modules of indexer.proto: messages and stubs."""
    out = tempfile.TemporaryDirectory()
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    files = [str(path.relative_to(PROTO)) for path in sorted(PROTO.rglob("*.proto"))]
    flags = [f"-I{PROTO}", f"-I{well_known}", f"--python_out={out.name}", f"--grpc_python_out={out.name}"]
    if protoc.main(["protoc", *flags, *files]) != 0:
        raise Mismatch("proto/ does not compile")
    sys.path.insert(0, out.name)
    messages = importlib.import_module("walindexer.v1.indexer_pb2")
    stubs = importlib.import_module("walindexer.v1.indexer_pb2_grpc")
    # So that it can be imported by name after the files are deleted.
    importlib.import_module("walindexer.v1.search_pb2_grpc")
    out.cleanup()
    return messages, stubs


def crc32c(data):
    """Returns the CRC-32C (Castagnoli): bit-reversed polynomial 0x82F63B78, one byte at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def crc32c_table():
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = (entry >> 1) ^ (0x82F63B78 if entry & 1 else 0)
        table.append(entry)
    return table


CRC32C_TABLE = crc32c_table()
assert crc32c(b"123456789") == 0xE3069283


def count_frames(data):
    """Counts Chronik records or Kafka batches, by their heads only."""
    count = at = 0
    while at < len(data):
        if data[at : at + 2] == b"\x7e\xca":
            version, length = data[at + 2], struct.unpack_from("<I", data, at + 4)[0]
            at += length if version == 1 else length + 12
        else:
            at += struct.unpack_from(">i", data, at + 8)[0] + 12
        count += 1
    return count


def percent_encode(name):
    """Encodes a name as in keys: every byte except [A-Za-z0-9._-]; `.` and `..` completely."""
    if name in (".", ".."):
        return "%2E" * len(name)
    return urllib.parse.quote(name, safe="._-").replace("~", "%7E")


def merge(ranges):
    """Sorts ranges with inclusive ends, and joins adjacent ones."""
    merged = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return merged


class Segment:
    """A fixture, and the expected reply."""

    def __init__(self, args):
        self.path = args.fixture
        self.data = args.fixture.read_bytes()
        self.sha256 = hashlib.sha256(self.data).digest()
        self.crc32c = crc32c(self.data)
        self.id = f"{args.fixture.stem}:{self.sha256.hex()[:8]}"
        self.log_id = args.log_id or "0"
        self.expected = {}
        for partition, path in args.expected:
            self.expected.setdefault(partition, []).append(json.loads(path.read_text()))

    def sum(self, count):
        return sum(count(expected) for several in self.expected.values() for expected in several)

    def reply(self, messages, again):
        """Returns the expected fields of IndexSegmentResponse."""
        formats = {".log": messages.SEGMENT_FORMAT_KAFKA_LOG, ".wal": messages.SEGMENT_FORMAT_CHRONIK_WAL}
        nothing_to_recognise = Must("any format", lambda format: True)
        return {
            "segment_id": self.id,
            "format": formats[self.path.suffix] if self.data else nothing_to_recognise,
            "bytes_read": len(self.data),
            "crc32c": self.crc32c,
            "sha256": self.sha256,
            "record_count": self.sum(lambda expected: expected["record_count"]),
            "control_record_count": self.sum(lambda expected: len(expected["control_offsets"])),
            "batch_count": count_frames(self.data),
            "torn_tail_bytes": 0,
            **SOUND,
            "partitions": [
                self.partition(messages, topic, partition, expected, again)
                for (topic, partition), expected in sorted(self.expected.items())
            ],
            "timings": {
                "admit_us": Must("any time", lambda us: us >= 0),
                "receive_us": Must("any time", lambda us: us >= 0),
                "build_us": Must("any time", lambda us: us >= 0),
                "upload_us": Must("any time", lambda us: us >= 0),
                "total_us": Must("more than nothing", lambda us: us > 0),
            },
        }

    def partition(self, messages, topic, partition, several, again):
        """Returns the expected fields of IndexedPartition."""
        base = min(expected["base_offset"] for expected in several)
        last = max(expected["last_offset"] for expected in several)
        records = [record for expected in several for record in expected["records"]]
        times = [record["timestamp"] for record in records if record["timestamp"] >= 0]
        min_time, max_time = (min(times), max(times)) if times else (None, None)
        present = merge((record["offset"], record["offset"]) for record in records)
        edges = [base - 1, *(edge for pair in present for edge in pair), last + 1]
        gaps = [(a + 1, b - 1) for a, b in zip(edges[::2], edges[1::2]) if a + 1 <= b - 1]
        common = {
            "base_offset": base,
            "last_offset": last,
            "record_count": len(records),
            "min_timestamp_ms": min_time,
            "max_timestamp_ms": max_time,
        }
        hashed = self.sha256 + f"{self.log_id}\0{topic}\0{partition}".encode()
        hash16 = hashlib.sha256(hashed).hexdigest()[:16]
        place = f"{percent_encode(topic)}/{partition}/{percent_encode(self.log_id)}"
        name = f"{base:020}-{last:020}_{min_time or 0:020}-{max_time or 0:020}_{hash16}.tar"
        key = Must(f"[PREFIX/]{place}/{name}", lambda key: key == f"{place}/{name}" or key.endswith(f"/{place}/{name}"))
        return {
            **common,
            "topic": topic,
            "partition": partition,
            "gaps": [{"first": first, "last": end} for first, end in gaps[:GAPS_IN_REPLY_MAX]],
            "gap_count": len(gaps),
            **SOUND,
            "log_id": self.log_id,
            "bundle": {
                **common,
                "key": key,
                "url": Must("a URL", lambda url: "://" in url),
                "size_bytes": Must("more than nothing", lambda size: size > 0),
                "crc32c": Must("any checksum, see the object", lambda crc: crc >= 0),
                "e_tag": Must("any tag", lambda tag: isinstance(tag, str)),
                "footer_offset": Must("more than nothing", lambda offset: offset > 0),
                "already_existed": True if again else Must("either", lambda existed: existed in (True, False)),
            },
        }


def check(what, found, expected):
    """Compares a message with its expected fields. A field without an expected value is an error."""
    if isinstance(expected, dict):
        fields = found.DESCRIPTOR.fields
        unknown = {field.name for field in fields} ^ expected.keys()
        if unknown:
            raise Mismatch(f"{what}: fields without an expectation, or the reverse: {', '.join(sorted(unknown))}")
        for field in fields:
            absent = field.has_presence and not found.HasField(field.name)
            value = None if absent else getattr(found, field.name)
            check(f"{what}.{field.name}", value, expected[field.name])
    elif isinstance(expected, list):
        if len(found) != len(expected):
            raise Mismatch(f"{what}: expected {len(expected)} of them, got {len(found)}:\n{found}")
        for nth, (one, expected_one) in enumerate(zip(found, expected)):
            check(f"{what}[{nth}]", one, expected_one)
    elif isinstance(expected, Must):
        if found is None or not expected.test(found):
            raise Mismatch(f"{what}: expected {expected!r}, got {found!r}")
    elif found != expected:
        raise Mismatch(f"{what}: expected {expected!r}, got {found!r}")


def requests(messages, segment, args):
    """Yields the header, then the bytes in chunks."""
    header = messages.SegmentHeader(segment_id=segment.id, log_id=args.log_id)
    if args.topic is not None:
        header.topic = args.topic
    if args.partition is not None:
        header.partition = args.partition
    header.inline.size_bytes = len(segment.data)
    header.inline.crc32c = segment.crc32c
    yield messages.IndexSegmentRequest(header=header)
    for at in range(0, len(segment.data), args.chunk_bytes):
        yield messages.IndexSegmentRequest(chunk=segment.data[at : at + args.chunk_bytes])


def check_object(bundle):
    """Reads the object that a receipt names with Python's own tar reader, if it is a file."""
    url = urllib.parse.urlparse(bundle.url)
    if url.scheme != "file":
        return f"not read: {url.scheme} store"
    path = Path(urllib.request.url2pathname(url.path))
    data = path.read_bytes()
    check("object's size", len(data), bundle.size_bytes)
    check("object's crc32c", crc32c(data), bundle.crc32c)
    if not 0 < bundle.footer_offset < len(data):
        raise Mismatch(f"footer_offset {bundle.footer_offset} lies outside the object's {len(data)} bytes")
    with tarfile.open(path, "r:") as tar:
        members = {member.name: member for member in tar}
        for needed in ("manifest.json", "records.zst", "records.idx"):
            if needed not in members:
                raise Mismatch(f"the object has no member {needed}, only {', '.join(members)}")
        json.load(tar.extractfile("manifest.json"))
    if data[-1024:] != bytes(1024) or not any(data[-1040:-1024]):
        raise Mismatch("the object does not end in exactly two zero blocks behind the trailer")
    return f"{len(data)} bytes, {len(members)} members"


def check_index(messages, stub, segment, args):
    first = stub.IndexSegment(requests(messages, segment, args), timeout=TIMEOUT_SECONDS)
    check("reply", first, segment.reply(messages, again=False))
    yield f"receipt: {first.record_count} records in {len(first.partitions)} partitions, every field as expected"
    for indexed in first.partitions:
        yield f"object {indexed.bundle.key}: {check_object(indexed.bundle)}"
    again = stub.IndexSegment(requests(messages, segment, args), timeout=TIMEOUT_SECONDS)
    check("reply to the same again", again, segment.reply(messages, again=True))
    for before, after in zip(first.partitions, again.partitions):
        for field in ("key", "url", "size_bytes", "crc32c", "e_tag", "footer_offset"):
            check(f"bundle.{field} when sent again", getattr(after.bundle, field), getattr(before.bundle, field))
    yield "sent again: the same objects, none new"


def check_service(messages, stub, segment):
    health = stub.Health(messages.HealthRequest(), timeout=TIMEOUT_SECONDS)
    check("Health.status", health.status, messages.HealthResponse.STATUS_SERVING)
    failed = [one.name for one in health.checks if not one.ok]
    check("Health.checks that fail", failed, [])
    check("Health.version", health.version, Must("not empty", bool))
    stats = stub.GetStats(messages.GetStatsRequest(), timeout=TIMEOUT_SECONDS)
    check("GetStats.version", stats.version, health.version)
    check("GetStats.worker_id", stats.worker_id, Must("not empty", bool))
    done = stats.segments_processed + stats.segments_already_indexed
    check("GetStats: segments done", done, Must("two at least", lambda done: done >= 2))
    sent = 2 * len(segment.data)
    check("GetStats.bytes_read", stats.bytes_read, Must(f"{sent} at least", lambda read: read >= sent))
    yield f"IndexerService: serving, version {health.version}, worker {stats.worker_id}"


def check_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "walindexer.v1.IndexerService"):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_SECONDS)
        check(f"grpc.health.v1 of {service!r}", reply.status, health_pb2.HealthCheckResponse.SERVING)
    yield "grpc.health.v1: serving"


def check_reflection(messages, channel):
    """Checks v1 and v1alpha. They differ only in the name of the package, so one set of messages fits both."""
    seen = []
    for version in ("v1", "v1alpha"):
        ask = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        wanted = "walindexer.v1.IndexerService"
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=wanted),
        ]
        try:
            listed, described = ask(iter(questions), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                continue
            raise
        services = [service.name for service in listed.list_services_response.service]
        missing = [name for name in SERVICES if name not in services]
        check(f"reflection {version}: services missing from {services}", missing, [])
        files = described.file_descriptor_response.file_descriptor_proto
        check_description(messages, wanted, [descriptor_pb2.FileDescriptorProto.FromString(one) for one in files])
        seen.append(version)
    check("reflection versions served", seen, Must("v1 at least", lambda seen: "v1" in seen))
    yield f"reflection {' and '.join(seen)}: {', '.join(services)}"


def check_description(messages, wanted, files):
    found = {
        f"{file.package}.{service.name}": [method.name for method in service.method]
        for file in files
        for service in file.service
    }
    ours = messages.DESCRIPTOR.services_by_name["IndexerService"]
    check(f"reflection's methods of {wanted}", found.get(wanted), [method.name for method in ours.methods])


def connect(args):
    """Connects without TLS, or with TLS and the certificate and token that the worker requires."""
    if args.tls_ca is None:
        return grpc.insecure_channel(args.address)
    read = [path and path.read_bytes() for path in (args.tls_ca, args.tls_key, args.tls_cert)]
    credentials = grpc.ssl_channel_credentials(*read)
    if args.token_file:
        token = grpc.access_token_call_credentials(args.token_file.read_text().strip())
        credentials = grpc.composite_channel_credentials(credentials, token)
    return grpc.secure_channel(args.address, credentials)


def run(args):
    messages, stubs = compile_protos()
    segment = Segment(args)
    with connect(args) as channel:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        stub = stubs.IndexerServiceStub(channel)
        started = time.monotonic()
        for steps in (
            check_index(messages, stub, segment, args),
            check_service(messages, stub, segment),
            check_health(channel),
            check_reflection(messages, channel),
        ):
            for line in steps:
                print(f"ok  {line}")
        print(f"ok  {args.fixture.name} in {time.monotonic() - started:.2f} s")


def parse_args(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("fixture", type=Path)
    parser.add_argument(
        "expected",
        nargs="*",
        metavar="[TOPIC/PARTITION=]EXPECTED.json",
        help="what the segment holds; without a name, of --topic and --partition; nothing for an empty segment",
    )
    parser.add_argument("--topic", help="sent in the header")
    parser.add_argument("--partition", type=int, help="sent in the header")
    parser.add_argument("--log-id", default="", help="sent in the header")
    for flag in ("--tls-ca", "--tls-cert", "--tls-key", "--token-file"):
        parser.add_argument(flag, type=Path, metavar="FILE", help="as the program's own")
    parser.add_argument("--chunk-bytes", type=int, default=4_093, help="an odd size, so that chunks cut frames")
    args = parser.parse_args(arguments)
    expected = []
    for argument in args.expected:
        name, equals, path = argument.rpartition("=")
        topic, slash, partition = name.rpartition("/")
        if not equals:
            if args.topic is None or args.partition is None:
                parser.error(f"{argument}: name its partition, TOPIC/PARTITION=, or give --topic and --partition")
            topic, partition = args.topic, args.partition
        elif not slash or not partition.isdigit():
            parser.error(f"{argument}: {name!r} is not TOPIC/PARTITION")
        expected.append(((topic, int(partition)), Path(path)))
    args.expected = expected
    return args


def main(arguments):
    args = parse_args(arguments)
    try:
        run(args)
    except Mismatch as mismatch:
        print(f"MISMATCH  {mismatch}", file=sys.stderr)
    except grpc.RpcError as error:
        print(f"{error.code().name}  {error.details()}", file=sys.stderr)
    except grpc.FutureTimeoutError:
        print(f"no server at {args.address} within {CONNECT_SECONDS} s", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
