#!/usr/bin/env python3
"""Measures Kafka's tiered storage with the plugin, beside Kafka's own LocalTieredStorage, and prints Markdown.

    benches/kafka.py             all of it, about 15 minutes on two cores
    benches/kafka.py --quick     little data and one round: shows that it runs, and roughly where it stands

It starts three real brokers with the same settings, each on an empty directory of the same disk:

local   LocalTieredStorage, from the jar of the tests of kafka-storage. It copies files into a directory.
disk    The plugin, with a worker that stores into a directory.
s3      The plugin, with a worker that stores into SeaweedFS.

All get the same records. One Java program, benches/kafka/Bench.java, writes and reads them on all brokers, which take turns in
each round: a slow minute of the machine affects all of them. `make bench-kafka` builds and fetches what is needed.
docs/performance.md explains the numbers.

WAL_INDEXER_TEST_BINARY and WAL_INDEXER_TEST_KAFKA_JAR name another worker and another jar of the plugin.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
STARTED_WITHIN_S = 120
STOPPED_WITHIN_S = 20

PARTITIONS = 8
CONSUMERS = 8
# The topic for the first byte in segments that no part of the broker has seen.
SEEK_SEGMENT_MIB = 4
SEEKS_MIN = 200

BUCKET = "bench"
S3_ENVIRONMENT = {
    "AWS_ALLOW_HTTP": "true",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "bench-id",
    "AWS_SECRET_ACCESS_KEY": "bench-secret",
}

NAMES = {"local": "LocalTieredStorage", "disk": "plugin, directory", "s3": "plugin, SeaweedFS"}
# Name: partitions, consumers, whether the stores' files are in the page cache.
READS = {
    "one consumer, one partition": (1, 1, True),
    "one consumer, all partitions": (PARTITIONS, 1, True),
    f"{CONSUMERS} consumers": (PARTITIONS, CONSUMERS, True),
    f"{CONSUMERS} consumers, page cache empty": (PARTITIONS, CONSUMERS, False),
}

BROKER_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
auto.create.topics.enable=false
remote.log.storage.system.enable=true
remote.log.metadata.manager.listener.name=PLAINTEXT
rlmm.config.remote.log.metadata.topic.replication.factor=1
rlmm.config.remote.log.metadata.topic.num.partitions=1
rlmm.config.remote.log.metadata.initialization.retry.interval.ms=100
remote.log.manager.task.interval.ms=500
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
log.segment.delete.delay.ms=500
"""
# As Kafka's own start scripts have it. Without ExplicitGCInvokesConcurrent: a collection that is asked for ends before its answer.
BROKER_JVM = ["-server", "-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"]
# Until copying begins, everything stays on the broker's disk.
TOPIC_SETTINGS = ["remote.storage.enable=true", "remote.log.copy.disable=true", "retention.ms=-1", "retention.bytes=-1",
                  "local.retention.ms=-2", "local.retention.bytes=-2", "segment.ms=9223372036854775807"]
COPY_SETTINGS = ["remote.log.copy.disable=false", "local.retention.bytes=1"]


def free_port(used=set()):
    """Returns a port below those of outgoing connections, so that it stays free while its server starts again."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in used:
                used.add(port)
                return port


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A running program. Its output goes to a file."""

    def __init__(self, name, command, directory, environment=None, **more):
        self.name, self.log = name, directory / f"{name}.log"
        output = self.log.open("ab")
        self.child = subprocess.Popen([str(word) for word in command], stderr=output, env={**os.environ, **(environment or {})},
                                      **{"stdin": subprocess.DEVNULL, "stdout": output, **more})
        output.close()

    def wait_until(self, what, condition):
        deadline = time.monotonic() + STARTED_WITHIN_S
        while not condition():
            if self.child.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
                sys.exit(f"{self.name}: {what}\n{tail}")
            time.sleep(0.05)

    def cpu_s(self):
        """The user and system time so far."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def seaweedfs(directory):
    """Starts SeaweedFS, and returns it with the port of its S3 interface."""
    data, identities = directory / "seaweedfs", directory / "s3.json"
    data.mkdir()
    credentials = {"accessKey": S3_ENVIRONMENT["AWS_ACCESS_KEY_ID"], "secretKey": S3_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]}
    actions = ["Admin", "Read", "List", "Write", "Tagging"]
    identities.write_text(json.dumps({"identities": [{"name": "bench", "credentials": [credentials], "actions": actions}]}))
    flags = [f"{server}.port{kind}" for server in ("s3", "master", "volume", "filer", "admin") for kind in ("", ".grpc")]
    ports = {flag: free_port() for flag in flags}
    ports |= {"s3.port.iceberg": 0, "s3.port.lance": 0}
    weed = os.environ.get("WAL_INDEXER_TEST_WEED", ROOT / "target" / "tools" / "weed")
    server = Process("seaweedfs", [
        weed, "-logtostderr=true", "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false",
        "-master.telemetry=false", f"-bucket={BUCKET}", f"-dir={data}", f"-s3.config={identities}",
        *(f"-{flag}={port}" for flag, port in ports.items())], directory, cwd=directory)

    def refuses():
        # A request without a signature: when it is refused, the identities are loaded.
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{ports['s3.port']}/{BUCKET}/", timeout=5).close()
        except urllib.error.HTTPError as error:
            return error.code == 403
        except OSError:
            return False

    server.wait_until("does not start", refuses)
    return server, ports["s3.port"]


class Worker:
    """A worker on a fixed port."""

    def __init__(self, name, store, directory, environment):
        self.name, self.store, self.directory, self.environment = name, store, directory, environment
        self.port, self.metrics_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self):
        binary = os.environ.get("WAL_INDEXER_TEST_BINARY", ROOT / "target" / "release" / "wal-indexer")
        command = [binary, "serve", "--listen", self.address, "--store", self.store,
                   "--metrics-listen", f"127.0.0.1:{self.metrics_port}"]
        self.process = Process(self.name, command, self.directory, self.environment)
        self.process.wait_until("does not start", lambda: listens(self.port))

    def restart(self):
        """Afterwards it has nothing in memory."""
        self.process.stop()
        self.start()

    def requests(self):
        """The requests to the store so far, by kind. Retries count."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        counts = dict.fromkeys(("put", "get", "head", "list"), 0)
        for line in lines:
            if line.startswith("wal_indexer_store_requests_total{"):
                kind = re.search(r'operation="(\w+)"', line)[1]
                counts[kind] = counts.get(kind, 0) + int(float(line.rsplit(" ", 1)[1]))
        return counts


class Broker:
    """A broker with its remote storage."""

    def __init__(self, name, setup, remote, worker=None, store=None):
        self.name, self.worker, self.store = name, worker, store
        self.data = setup.directory / f"{name}-data"
        port, controller, self.jmx = free_port(), free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        properties = setup.directory / f"{name}.properties"
        properties.write_text(BROKER_SETTINGS + "\n".join([
            f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            f"controller.quorum.voters=1@127.0.0.1:{controller}", f"log.dirs={self.data}", *remote]))
        java = ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{setup.jars}/*"]
        subprocess.run([*java, "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c", properties],
                       stdout=subprocess.DEVNULL, check=True)
        jmx = [f"-Dcom.sun.management.jmxremote.{key}" for key in (
            f"port={self.jmx}", f"rmi.port={self.jmx}", "host=127.0.0.1", "authenticate=false", "ssl=false")]
        self.process = Process(f"broker-{name}", [
            java[0], *BROKER_JVM, *jmx, "-Djava.rmi.server.hostname=127.0.0.1", *java[1:], "kafka.Kafka", properties], setup.directory)
        self.process.wait_until("does not start", lambda: listens(port))

    def segments(self, topic):
        """The sizes of the segments on its disk, by partition and base offset, without those that are written to."""
        sealed = {}
        for partition in range(PARTITIONS):
            logs = sorted((self.data / f"{topic}-{partition}").glob("*.log"))
            for log in logs[:-1]:
                # A file can go while it is listed.
                with contextlib.suppress(FileNotFoundError):
                    sealed[partition, int(log.stem)] = log.stat().st_size
        return sealed

    def empty_page_cache(self):
        """Lets the kernel forget the files of its store."""
        for path in self.store.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fdatasync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def fill_page_cache(self):
        for path in self.store.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(MIB):
                        pass


class Bench:
    """The Java program."""

    def __init__(self, setup):
        command = ["java", "-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{setup.jars}/*",
                   ROOT / "benches" / "kafka" / "Bench.java"]
        self.process = Process("bench", command, setup.directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def does(self, *words):
        """Asks for something that must succeed. Returns the words of each line of the answer."""
        child, lines = self.process.child, []
        child.stdin.write(" ".join(str(word) for word in words) + "\n")
        child.stdin.flush()
        while line := child.stdout.readline().strip():
            if line == "ok":
                return lines
            if line.startswith("failed "):
                break
            lines.append(line.split())
        for log in sorted(self.process.log.parent.glob("*.log")):
            print(f"==> {log.name}", *log.read_text(errors="replace").splitlines()[-15:], sep="\n", file=sys.stderr)
        sys.exit(f"{' '.join(str(word) for word in words)}: {line or 'the program ended'}")


class Sample:
    """Values of the rounds."""

    def __init__(self, values=()):
        self.values = list(values)

    def add(self, value):
        self.values.append(value)

    def median(self):
        return statistics.median(self.values)

    def text(self, digits):
        low, middle, high = (f"{value:.{digits}f}" for value in (min(self.values), self.median(), max(self.values)))
        return middle if len(self.values) == 1 else f"{middle} ({low}–{high})"

    def percentile(self, percent):
        """The smallest value that this percentage of the values does not exceed."""
        ordered = sorted(self.values)
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


class Report:
    """Prints tables, and keeps the goals for the end."""

    def __init__(self):
        self.goals = []

    def say(self, text):
        print(text, flush=True)

    def table(self, heads, rows):
        for row in (heads, ["---"] * len(heads), *rows):
            self.say("| " + " | ".join(str(cell) for cell in row) + " |")
        self.say("")

    def goal(self, what, asked, measured, text):
        """`asked` is ("≥", number) or ("≤", number); `text` has the measured value with its unit."""
        sign, limit = asked
        met = measured >= limit if sign == "≥" else measured <= limit
        verdict = "met" if met else f"missed by {abs(measured / limit - 1):.0%}".replace("%", " %")
        self.goals.append([what, f"{sign} {limit:g}", text, verdict])


def newest(paths):
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=0)


def plugin():
    """Returns the plugin's jar. Builds it if there is none, or if its sources are newer."""
    if named := os.environ.get("WAL_INDEXER_TEST_KAFKA_JAR"):
        return Path(named)
    kafka = ROOT / "kafka"
    jars = sorted((kafka / "target").glob("wal-indexer-kafka-*.jar"))
    sources = [kafka / "pom.xml", *(kafka / "src" / "main").rglob("*"), *(ROOT / "proto").rglob("*")]
    if not jars or newest(jars[:1]) < newest(sources):
        subprocess.run(["mvn", "-B", "-q", "-f", kafka / "pom.xml", "package", "-DskipTests"], check=True)
        jars = sorted((kafka / "target").glob("wal-indexer-kafka-*.jar"))
    return jars[0]


def kafka(version):
    """Returns the directory with the jars of Kafka, and the jar with LocalTieredStorage. Fetches what is not there."""
    found = []
    for name, pom in (("broker", ROOT / "tests" / "kafka" / "pom.xml"), ("local", ROOT / "benches" / "kafka" / "pom.xml")):
        directory = ROOT / "target" / "tools-kafka-bench" / f"{name}-{version}"
        stamp = directory / "stamp"
        if newest([stamp]) < newest([pom]):
            shutil.rmtree(directory, ignore_errors=True)
            subprocess.run(["mvn", "-B", "-q", "-f", pom, "dependency:copy-dependencies", "-DincludeScope=runtime",
                            f"-Dkafka.version={version}", f"-DoutputDirectory={directory}"], check=True)
            stamp.touch()
        found.append(directory)
    [local] = found[1].glob("*.jar")
    return found[0], local


def start(setup, ended):
    """Starts everything. `ended` ends it."""
    def runs(process):
        ended.callback(process.stop)
        return process

    def worker(name, store, environment):
        started = Worker(name, store, setup.directory, environment)
        ended.callback(lambda: started.process.stop())
        return started

    stores = {name: setup.directory / f"{name}-store" for name in ("local", "disk")}
    for store in stores.values():
        store.mkdir()
    server, port = seaweedfs(setup.directory)
    runs(server)
    on_disk = worker("worker-disk", stores["disk"].as_uri(), {})
    on_s3 = worker("worker-s3", f"s3://{BUCKET}/tiered", {**S3_ENVIRONMENT, "AWS_ENDPOINT": f"http://127.0.0.1:{port}"})

    def with_plugin(worker):
        return [f"remote.log.storage.manager.class.path={setup.plugin}",
                "remote.log.storage.manager.class.name=io.walindexer.kafka.WalIndexerRemoteStorageManager",
                f"rsm.config.workers={worker.address}"]

    local = [f"remote.log.storage.manager.class.path={setup.local_tiered_storage}",
             "remote.log.storage.manager.class.name=org.apache.kafka.server.log.remote.storage.LocalTieredStorage",
             f"rsm.config.dir={stores['local']}"]
    setup.seaweedfs = server
    setup.brokers = {
        "local": Broker("local", setup, local, store=stores["local"]),
        "disk": Broker("disk", setup, with_plugin(on_disk), on_disk, stores["disk"]),
        "s3": Broker("s3", setup, with_plugin(on_s3), on_s3, setup.directory / "seaweedfs"),
    }
    for broker in setup.brokers.values():
        runs(broker.process)
    setup.bench = Bench(setup)
    runs(setup.bench.process)
    for broker in setup.brokers.values():
        setup.bench.does("broker", broker.name, broker.address, broker.jmx)


def processes(setup, broker):
    """The processes that work for a broker's consumers, by what they are."""
    found = {"broker": broker.process, "client": setup.bench.process}
    if broker.worker:
        found["worker"] = broker.worker.process
    if broker.name == "s3":
        found["SeaweedFS"] = setup.seaweedfs
    return found


def cpu(setup, broker):
    return {what: process.cpu_s() for what, process in processes(setup, broker).items()}


def less(after, before):
    return {key: after[key] - before.get(key, 0) for key in after}


def write(setup, names, topic, segments, segment_mib, codec, seed):
    """Creates a topic on these brokers, and writes the same records to each, without copying them."""
    for name in names:
        setup.bench.does("create", name, topic, PARTITIONS, *TOPIC_SETTINGS, f"segment.bytes={segment_mib * MIB}")
    setup.bench.does("produce", ",".join(names), topic, PARTITIONS, segments * segment_mib * MIB + MIB, codec, seed)


def copy(setup, broker, topic):
    """Lets all sealed segments of a topic be copied, and waits until the broker has deleted its own. Returns the segments, their
    bytes, the seconds, and the requests to the store."""
    segments = broker.segments(topic)
    size = sum(segments.values())
    requests = broker.worker.requests() if broker.worker else {}
    [[seconds]] = setup.bench.does("copy", broker.name, topic, size, *COPY_SETTINGS)
    requests = less(broker.worker.requests(), requests) if broker.worker else {}
    broker.process.wait_until(f"keeps segments of {topic}", lambda: not broker.segments(topic))
    # The files are deleted, and the offset where the disk begins moves, a moment apart.
    time.sleep(2)
    return segments, size, float(seconds), requests


def copies(setup, report, codec):
    """Measures copies. Returns the bytes by partition and the topics' bytes, by broker."""
    topic = f"logs-{codec}"
    began = time.monotonic()
    # Compressed segments hold several times as many records.
    segments = setup.segments if codec == "none" else max(1, setup.segments // 3)
    write(setup, list(setup.brokers), topic, segments, setup.segment_mib, codec, 1)
    wrote_s = time.monotonic() - began
    sizes, rows, speeds = {}, [], {}
    for name, broker in setup.brokers.items():
        before = cpu(setup, broker)
        segments, size, seconds, requests = copy(setup, broker, topic)
        used = less(cpu(setup, broker), before)
        sizes[name] = [sum(size for (nth, _), size in segments.items() if nth == partition) for partition in range(PARTITIONS)]
        speeds[name] = size / 1e6 / seconds
        rows.append([NAMES[name], len(segments), f"{size / 1e6:.0f}", f"{speeds[name]:.1f}", f"{speeds[name] / speeds['local']:.2f}",
                     by_gb(requests, size) or "–", cpu_by_gb(used, size, without="client")])
        # Nothing was read yet, so this is the memory of a broker whose consumers need no remote storage.
        setup.idle[name] = [int(value) / MIB for value in setup.bench.does("idle", name)[0]]
    report.say(f"### Copies, {codec}\n")
    report.say(f"{PARTITIONS} partitions. Written in {wrote_s:.0f} s, to all three at once; then each broker was allowed to copy, one "
               f"after the other.\n")
    report.table(["remote storage", "segments", "MB", "MB/s", "by LocalTieredStorage", "requests to the store / GB",
                  "CPU s / GB"], rows)
    return topic, sizes


def by_gb(requests, size):
    """Requests of each kind per GB, as text."""
    return ", ".join(f"{count / (size / 1e9):.0f} {kind.upper()}" for kind, count in requests.items() if count)


def cpu_by_gb(used, size, without=None):
    return ", ".join(f"{what} {seconds / (size / 1e9):.1f}" for what, seconds in used.items() if what != without)


def consume(setup, report, codec, topic, sizes):
    """Measures consumption from the remote storage."""
    speeds = {read: {name: Sample() for name in setup.brokers} for read in READS}
    cpus, requests, remote = {}, {}, {}
    # The first round warms up the virtual machines, and does not count.
    for number in range(setup.rounds + 1):
        for read, (partitions, consumers, warm) in READS.items():
            names = list(setup.brokers)
            # Each takes each place in turn.
            for name in names[number % 3:] + names[:number % 3]:
                broker = setup.brokers[name]
                size = sum(sizes[name][:partitions])
                (broker.fill_page_cache if warm else broker.empty_page_cache)()
                before, asked = cpu(setup, broker), broker.worker.requests() if broker.worker else {}
                [[seconds, _, fetched]] = setup.bench.does("consume", name, topic, partitions, consumers)
                if number == 0:
                    continue
                speeds[read][name].add(size / 1e6 / float(seconds))
                remote.setdefault(read, []).append(int(fetched) / size)
                used = less(cpu(setup, broker), before)
                cpus.setdefault((read, name), []).append((used, size))
                if broker.worker:
                    requests.setdefault((read, name), []).append((less(broker.worker.requests(), asked), size))
    report.say(f"### Consumption from the remote storage, {codec}\n")
    fetched = min(value for values in remote.values() for value in values)
    report.say(f"{setup.rounds} rounds. Bytes that the brokers counted as fetched from the remote storage, by those of the segments: at "
               f"least {fetched:.3f}.\n")
    rows, details = [], []
    for read in READS:
        local = speeds[read]["local"].values
        row = [read, *(speeds[read][name].text(0) for name in setup.brokers)]
        for name in ("disk", "s3"):
            ratio = Sample(own / other for own, other in zip(speeds[read][name].values, local))
            row.append(ratio.text(2))
            if name == "disk" and READS[read][2]:
                report.goal(f"{codec}, {read}: MB/s by LocalTieredStorage", ("≥", 0.8), ratio.median(), ratio.text(2))
        rows.append(row)
        least, _ = total(cpus[read, "local"])
        for name in setup.brokers:
            asked = requests.get((read, name), [])
            used, size = total(cpus[read, name])
            beside = sum(used[what] for what in least)
            details.append([read, NAMES[name], cpu_by_gb(used, size), f"{sum(least.values()) / sum(used.values()):.2f}",
                            f"{sum(least.values()) / beside:.2f}", by_gb(*total(asked)) if asked else "–"])
    report.table(["", *(f"{NAMES[name]}, MB/s" for name in setup.brokers), "directory by local", "SeaweedFS by local"], rows)
    report.say("The CPU time of LocalTieredStorage by that of all processes is the ratio of speeds that is left where the cores are "
               "busy. Without worker and store it is the ratio that is left where these have machines of their own.\n")
    report.table(["", "remote storage", "CPU s / GB", "LocalTieredStorage by all", "by broker and client",
                  "requests to the store / GB"], details)


def total(counted):
    """Adds up pairs of counts by name and bytes."""
    names = {name: sum(counts[name] for counts, _ in counted) for name in counted[0][0]}
    return names, sum(size for _, size in counted)


def memory(setup, report, codec, topic):
    """Measures the brokers' memory while consumers read."""
    found = {name: [] for name in setup.brokers}
    for _ in range(setup.memory_rounds):
        for name in setup.brokers:
            [values] = setup.bench.does("memory", name, topic, PARTITIONS, CONSUMERS, setup.memory_s)
            found[name].append([int(value) / MIB for value in values])
    report.say(f"### Memory of the brokers, {codec}\n")
    report.say(f"{CONSUMERS} consumers read for {setup.memory_s} s, {setup.memory_rounds} times. Heap is what is in use after a "
               f"collection of all of it; idle is after the copies, before anything was read. In MiB.\n")
    rows = []
    for name, rounds in found.items():
        (heap, direct), (middle, most, most_direct) = setup.idle[name], zip(*rounds)
        rows.append([NAMES[name], f"{heap:.0f}", Sample(value - heap for value in middle).text(0),
                     Sample(value - heap for value in most).text(0), f"{direct:.1f}", Sample(most_direct).text(1)])
    report.table(["remote storage", "heap, idle", "added, median", "added, most", "direct, idle", "direct, most"], rows)


def first_bytes(setup, report, topic):
    """Measures the time to the first byte, cold, from SeaweedFS."""
    bench, broker = setup.bench, setup.brokers["s3"]
    fetched = Sample()
    # The first time loads the classes, and does not count.
    bench.does("fetch", broker.name, topic, setup.plugin, broker.worker.address, 0)
    while len(fetched.values) < setup.seeks:
        broker.worker.restart()
        broker.empty_page_cache()
        for [ms] in bench.does("fetch", broker.name, topic, setup.plugin, broker.worker.address, len(fetched.values) + 1):
            fetched.add(float(ms))

    report.say("### First byte, cold\n")
    report.say(f"*Plugin*: from `fetchLogSegment` at a random position of a segment of {setup.segment_mib} MiB to its first byte. The "
               "plugin keeps no streams, the worker was started again since it last read the segment, and SeaweedFS's files are not in "
               "the page cache. *Consumer*: from the first poll at a random offset to the first records, which are up to 1 MiB. Each is "
               f"in a segment of {SEEK_SEGMENT_MIB} MiB that nobody has read before, so the broker also fetches its index files.\n")
    heads = ["", "fetches", "p50, ms", "p90, ms", "p99, ms", "most, ms"]
    report.table(heads, [percentiles("plugin, SeaweedFS", fetched)])
    p99 = fetched.percentile(99)
    report.goal("first byte, cold, p99 of the plugin", ("≤", 150), p99, f"{p99:.1f} ms")

    seeks_topic, names = "seeks", ("local", "s3")
    write(setup, names, seeks_topic, -(-setup.seeks // PARTITIONS), SEEK_SEGMENT_MIB, "none", 2)
    sought = {}
    for name in names:
        broker = setup.brokers[name]
        segments, _, _, _ = copy(setup, broker, seeks_topic)
        chosen, ordered = random.Random(3), sorted(segments)
        # No segment has many fewer records than the smallest whose next one is known.
        records = min(after - base for (_, base), (_, after) in zip(ordered, ordered[1:]) if after > base) * 9 // 10
        targets = [(partition, base + chosen.randrange(records)) for partition, base in ordered]
        chosen.shuffle(targets)
        places = setup.directory / "places"
        places.write_text("".join(f"{partition} {offset}\n" for partition, offset in targets))
        if broker.worker:
            broker.worker.restart()
        broker.empty_page_cache()
        sought[name] = Sample(float(ms) for [ms] in setup.bench.does("seek", name, seeks_topic, places))
    report.table(heads, [percentiles(f"consumer, {NAMES[name]}", sample) for name, sample in sought.items()])
    p99 = sought["s3"].percentile(99)
    report.goal("first records, cold, p99 of a consumer", ("≤", 150), p99, f"{p99:.1f} ms")


def percentiles(what, sample):
    values = (*(sample.percentile(percent) for percent in (50, 90, 99)), max(sample.values))
    return [what, len(sample.values), *(f"{value:.1f}" for value in values)]


def machine():
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory_kb = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1])
    java = subprocess.run(["java", "-version"], stderr=subprocess.PIPE, text=True, check=True).stderr.splitlines()
    return (f"{os.cpu_count()} cores, {model[1] if model else 'unknown processor'}, {memory_kb / 1e6:.0f} GB of memory; "
            f"{java[1] if len(java) > 1 else java[0]}")


def options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="little data, one round, no codec but none: under 3 minutes")
    parser.add_argument("--codec", action="append", help="a codec of the producer; several times for several. Default: none, zstd")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of consumption; one more is the warm-up")
    parser.add_argument("--segments", type=int, default=3, help="sealed segments of 64 MiB in each of 8 partitions; a third if compressed")
    parser.add_argument("--only", action="append", choices=["consumption", "memory", "first-byte"],
                        help="a part beside the copies; several times for several")
    parser.add_argument("--kafka", default="4.3.1", help="a version of Kafka with LocalTieredStorage in Maven Central")
    parser.add_argument("--directory", type=Path, default=ROOT / "target", help="a directory on the disk that is measured")
    parser.add_argument("--keep", action="store_true", help="keep the directory with the logs of all processes")
    return parser.parse_args()


def main():
    setup = options()
    setup.segment_mib = 64
    setup.memory_rounds, setup.memory_s, setup.seeks = 3, 10, SEEKS_MIN
    setup.codecs = setup.codec or ["none", "zstd"]
    setup.only = setup.only or ["consumption", "memory", "first-byte"]
    if setup.quick:
        setup.rounds, setup.segments, setup.segment_mib = 1, 1, 16
        setup.memory_rounds, setup.memory_s, setup.seeks = 1, 4, 2 * PARTITIONS
        setup.codecs = setup.codec or ["none"]
    setup.plugin, (setup.jars, setup.local_tiered_storage) = plugin(), kafka(setup.kafka)
    # What was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    setup.idle = {}
    report = Report()
    setup.directory = Path(tempfile.mkdtemp(prefix="bench-kafka-", dir=setup.directory.resolve()))
    with contextlib.ExitStack() as ended:
        if not setup.keep:
            ended.callback(shutil.rmtree, setup.directory, ignore_errors=True)
        start(setup, ended)
        report.say(f"## Kafka's tiered storage\n\n{machine()}; Kafka {setup.kafka}. {PARTITIONS} partitions with sealed segments "
                   f"of {setup.segment_mib} MiB; records of JSON logs, about 1 kB. MB and GB are millions and thousands of "
                   "millions of bytes of segments.\n")
        for nth, codec in enumerate(setup.codecs):
            topic, sizes = copies(setup, report, codec)
            if "consumption" in setup.only:
                consume(setup, report, codec, topic, sizes)
            if "memory" in setup.only and nth == 0:
                memory(setup, report, codec, topic)
            if "first-byte" in setup.only and nth == 0:
                first_bytes(setup, report, topic)
        report.say("### Goals\n")
        report.table(["", "asked", "measured", ""], report.goals)


if __name__ == "__main__":
    main()
