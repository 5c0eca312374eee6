#!/usr/bin/env python3
"""Sends a segment inside a span of OpenTelemetry's own SDK. Prints the ids of the trace and of the span.

The SDK writes the headers, so the test does not compare this project's reader with its own writer.
"""

import sys
from pathlib import Path

import grpc
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider

from index_fixture import compile_protos

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "kafka" / "none.log"


def requests(messages, data):
    header = messages.SegmentHeader(segment_id="from Python", topic="orders", partition=3)
    header.inline.size_bytes = len(data)
    yield messages.IndexSegmentRequest(header=header)
    yield messages.IndexSegmentRequest(chunk=data)


def main(address):
    messages, stubs = compile_protos()
    data = FIXTURE.read_bytes()
    tracer = TracerProvider().get_tracer("tests/client")
    with grpc.insecure_channel(address) as channel, tracer.start_as_current_span("seal") as span:
        headers = {}
        propagate.inject(headers)
        stub = stubs.IndexerServiceStub(channel)
        reply = stub.IndexSegment(requests(messages, data), metadata=list(headers.items()), timeout=60)
        assert reply.bytes_read == len(data), reply
        context = span.get_span_context()
    print(trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id))


if __name__ == "__main__":
    main(sys.argv[1])
