#!/usr/bin/env python3
"""Reads partition 0 of a topic from its beginning to its end with kafka-python.

Prints a line for each record: offset, SHA-256 of the value, SHA-256 of key, time and headers.
Arguments: the brokers' addresses, the topic, the isolation level.
"""

import hashlib
import sys
import time

from kafka import KafkaConsumer, TopicPartition

PROGRESS_WITHIN_S = 60


def main(brokers, topic, isolation):
    consumer = KafkaConsumer(
        bootstrap_servers=brokers.split(","),
        enable_auto_commit=False,
        isolation_level=isolation,
        check_crcs=True,
        max_partition_fetch_bytes=4 << 20,
    )
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    end = consumer.end_offsets([partition])[partition]
    deadline = time.monotonic() + PROGRESS_WITHIN_S
    while (position := consumer.position(partition)) < end:
        for record in consumer.poll(timeout_ms=1000).get(partition, []):
            value = b"null" if record.value is None else record.value
            rest = repr((record.key, record.timestamp, record.timestamp_type, record.headers)).encode()
            print(record.offset, hashlib.sha256(value).hexdigest(), hashlib.sha256(rest).hexdigest())
        if consumer.position(partition) > position:
            deadline = time.monotonic() + PROGRESS_WITHIN_S
        elif time.monotonic() > deadline:
            sys.exit(f"nothing comes at offset {position} of {end}")


main(*sys.argv[1:])
