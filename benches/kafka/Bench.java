import java.io.BufferedReader;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SplittableRandom;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.BooleanSupplier;
import java.util.stream.Collectors;
import javax.management.InstanceNotFoundException;
import javax.management.MBeanServerConnection;
import javax.management.ObjectName;
import javax.management.openmbean.CompositeData;
import javax.management.remote.JMXConnectorFactory;
import javax.management.remote.JMXServiceURL;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.LogDirDescription;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.server.log.remote.metadata.storage.serialization.RemoteLogMetadataSerde;
import org.apache.kafka.server.log.remote.storage.RemoteLogMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentId;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadataUpdate;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentState;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager;

/**
 * Does what {@code benches/kafka.py} asks for, one line of standard input after the other, against several brokers:
 * writes records, lets segments be copied, consumes, and asks for figures. It answers each line with lines of its own,
 * then with {@code ok} or with {@code failed} and the error. One process does it for all brokers, so that its code is
 * as warm for each of them.
 */
public final class Bench {
    private static final Duration TIMEOUT = Duration.ofMinutes(10);
    private static final int BATCH_BYTES = 128 << 10;
    private static final String MANAGER = "io.walindexer.kafka.WalIndexerRemoteStorageManager";

    /** A broker. */
    private static final class Broker {
        private final String address;
        private final Admin admin;
        private final MBeanServerConnection mbeans;

        Broker(String address, String jmxPort) throws Exception {
            this.address = address;
            this.admin = Admin.create(Map.of("bootstrap.servers", address));
            JMXServiceURL url = new JMXServiceURL("service:jmx:rmi:///jndi/rmi://127.0.0.1:" + jmxPort + "/jmxrmi");
            this.mbeans = JMXConnectorFactory.connect(url).getMBeanServerConnection();
        }

        /** A counter of a topic; 0 as long as the broker has none. */
        long counted(String name, String topic) throws Exception {
            try {
                return (long) mbeans.getAttribute(
                    new ObjectName("kafka.server:type=BrokerTopicMetrics,name=" + name + ",topic=" + topic), "Count");
            } catch (InstanceNotFoundException e) {
                return 0;
            }
        }

        /** The bytes of the heap that are in use right after a collection of all of it. */
        long heapAfterCollection() throws Exception {
            ObjectName memory = new ObjectName("java.lang:type=Memory");
            mbeans.invoke(memory, "gc", null, null);
            return (long) ((CompositeData) mbeans.getAttribute(memory, "HeapMemoryUsage")).get("used");
        }

        long direct() throws Exception {
            return (long) mbeans.getAttribute(new ObjectName("java.nio:type=BufferPool,name=direct"), "MemoryUsed");
        }
    }

    private final Map<String, Broker> brokers = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        Bench bench = new Bench();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            try {
                bench.run(line.split(" "));
                System.out.println("ok");
            } catch (Exception e) {
                e.printStackTrace();
                System.out.println("failed " + e.toString().replace('\n', ' '));
            }
            System.out.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    private void run(String[] words) throws Exception {
        List<Broker> named = Arrays.stream(words[1].split(",")).map(brokers::get).collect(Collectors.toList());
        Broker broker = named.get(0);
        switch (words[0]) {
            case "broker":
                brokers.put(words[1], new Broker(words[2], words[3]));
                break;
            case "create":
                NewTopic topic = new NewTopic(words[2], Integer.parseInt(words[3]), (short) 1);
                broker.admin.createTopics(List.of(topic.configs(settings(words, 4)))).all().get();
                awaitTrue("the topic has no leaders", () -> hasLeaders(broker, words[2], topic.numPartitions()));
                break;
            case "produce":
                produce(named, words[2], Integer.parseInt(words[3]), Long.parseLong(words[4]), words[5],
                    Long.parseLong(words[6]));
                break;
            case "copy":
                copy(broker, words[2], Long.parseLong(words[3]), settings(words, 4));
                break;
            case "consume":
                consume(broker, words[2], Integer.parseInt(words[3]), Integer.parseInt(words[4]));
                break;
            case "idle":
                broker.heapAfterCollection();
                System.out.println(broker.heapAfterCollection() + " " + broker.direct());
                break;
            case "memory":
                memory(broker, words[2], Integer.parseInt(words[3]), Integer.parseInt(words[4]),
                    Integer.parseInt(words[5]));
                break;
            case "seek":
                seek(broker, words[2], Path.of(words[3]));
                break;
            case "fetch":
                fetch(broker, words[2], Path.of(words[3]), words[4], Long.parseLong(words[5]));
                break;
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private static Map<String, String> settings(String[] words, int from) {
        Map<String, String> settings = new HashMap<>();
        for (String word : Arrays.copyOfRange(words, from, words.length)) {
            settings.put(word.substring(0, word.indexOf('=')), word.substring(word.indexOf('=') + 1));
        }
        return settings;
    }

    private static void awaitTrue(String otherwise, BooleanSupplier condition) throws InterruptedException {
        Instant end = Instant.now().plus(TIMEOUT);
        while (!condition.getAsBoolean()) {
            if (Instant.now().isAfter(end)) {
                throw new IllegalStateException(otherwise);
            }
            Thread.sleep(10);
        }
    }

    private static boolean hasLeaders(Broker broker, String topic, int partitions) {
        try {
            var found = broker.admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions();
            return found.size() == partitions && found.stream().allMatch(one -> one.leader() != null);
        } catch (Exception e) {
            return false;
        }
    }

    /** Writes the same records to all brokers, until each partition has this many bytes on disk. */
    private void produce(List<Broker> all, String topic, int partitions, long bytes, String codec, long seed)
            throws Exception {
        List<KafkaProducer<byte[], byte[]>> producers = new ArrayList<>();
        for (Broker broker : all) {
            producers.add(new KafkaProducer<>(Map.of(
                "bootstrap.servers", broker.address, "compression.type", codec, "linger.ms", "100",
                "batch.size", String.valueOf(BATCH_BYTES), "buffer.memory", "67108864",
                // The brokers share the machine with other work.
                "request.timeout.ms", "120000", "delivery.timeout.ms", "600000"),
                new ByteArraySerializer(), new ByteArraySerializer()));
        }
        AtomicReference<Exception> failure = new AtomicReference<>();
        Logs logs = new Logs(seed);
        try {
            while (all.stream().mapToLong(broker -> smallest(broker, topic, partitions)).min().getAsLong() < bytes) {
                // One partition after the other, so that every batch is full.
                for (int partition = 0; partition < partitions; partition++) {
                    for (int sent = 0; sent < 32 * BATCH_BYTES; ) {
                        byte[] value = logs.next();
                        ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, partition, logs.key(), value);
                        producers.forEach(producer ->
                            producer.send(record, (done, e) -> failure.compareAndSet(null, e)));
                        sent += value.length;
                    }
                }
                producers.forEach(KafkaProducer::flush);
                if (failure.get() != null) {
                    throw failure.get();
                }
            }
        } finally {
            producers.forEach(KafkaProducer::close);
        }
    }

    /** The bytes on disk of the smallest partition. */
    private static long smallest(Broker broker, String topic, int partitions) {
        try {
            long smallest = Long.MAX_VALUE;
            for (LogDirDescription directory :
                    broker.admin.describeLogDirs(List.of(1)).allDescriptions().get().get(1).values()) {
                for (int partition = 0; partition < partitions; partition++) {
                    var replica = directory.replicaInfos().get(new TopicPartition(topic, partition));
                    smallest = Math.min(smallest, replica == null ? 0 : replica.size());
                }
            }
            return smallest;
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    /** Changes the topic so that its segments are copied, and prints the seconds until the broker has counted all bytes. */
    private void copy(Broker broker, String topic, long bytes, Map<String, String> settings) throws Exception {
        List<AlterConfigOp> changes = new ArrayList<>();
        settings.forEach((key, value) ->
            changes.add(new AlterConfigOp(new ConfigEntry(key, value), AlterConfigOp.OpType.SET)));
        long start = System.nanoTime();
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        broker.admin.incrementalAlterConfigs(Map.of(resource, changes)).all().get();
        awaitTrue("the segments are not copied", () -> {
            try {
                return broker.counted("RemoteCopyBytesPerSec", topic) >= bytes;
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        System.out.println(seconds(start));
    }

    private static double seconds(long startNanos) {
        return (System.nanoTime() - startNanos) / 1e9;
    }

    private static KafkaConsumer<byte[], byte[]> consumer(Broker broker, String topic) {
        // Without a group: nothing but fetches. Everything else is as by default.
        KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(
            Map.of("bootstrap.servers", broker.address, "enable.auto.commit", "false", "auto.offset.reset", "none"),
            new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.partitionsFor(topic);
        return consumer;
    }

    /** The offset of each partition where the broker's own disk begins. */
    private static Map<TopicPartition, Long> remoteEnds(Broker broker, String topic, int partitions) throws Exception {
        Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
        for (int partition = 0; partition < partitions; partition++) {
            asked.put(new TopicPartition(topic, partition), OffsetSpec.earliestLocal());
        }
        Map<TopicPartition, Long> ends = new HashMap<>();
        broker.admin.listOffsets(asked).all().get().forEach((partition, found) -> ends.put(partition, found.offset()));
        return ends;
    }

    /** Reads these partitions from their first offset to these ends. Returns the number of records. */
    private static long readAll(KafkaConsumer<byte[], byte[]> consumer, Map<TopicPartition, Long> ends,
            BooleanSupplier stop) {
        Map<TopicPartition, Long> left = new HashMap<>(ends);
        consumer.assign(left.keySet());
        left.keySet().forEach(partition -> consumer.seek(partition, 0));
        long records = 0;
        Instant end = Instant.now().plus(TIMEOUT);
        while (!left.isEmpty() && !stop.getAsBoolean()) {
            ConsumerRecords<byte[], byte[]> polled = consumer.poll(Duration.ofMillis(200));
            for (TopicPartition partition : polled.partitions()) {
                List<ConsumerRecord<byte[], byte[]>> some = polled.records(partition);
                records += some.size();
                if (left.containsKey(partition) && some.get(some.size() - 1).offset() + 1 >= left.get(partition)) {
                    left.remove(partition);
                    consumer.pause(List.of(partition));
                }
            }
            if (Instant.now().isAfter(end)) {
                throw new IllegalStateException("the consumer does not reach the end");
            }
        }
        return records;
    }

    /**
     * Reads everything that is remote of the first partitions. Prints the seconds, the records and the bytes that the
     * broker counted as fetched from the remote storage.
     */
    private void consume(Broker broker, String topic, int partitions, int consumers) throws Exception {
        Map<TopicPartition, Long> ends = remoteEnds(broker, topic, partitions);
        long before = broker.counted("RemoteFetchBytesPerSec", topic);
        CyclicBarrier barrier = new CyclicBarrier(consumers + 1);
        ExecutorService threads = Executors.newFixedThreadPool(consumers);
        List<Future<Long>> reading = new ArrayList<>();
        for (Map<TopicPartition, Long> share : shares(ends, consumers)) {
            reading.add(threads.submit(() -> {
                try (KafkaConsumer<byte[], byte[]> consumer = consumer(broker, topic)) {
                    barrier.await();
                    long records = readAll(consumer, share, () -> false);
                    barrier.await();
                    return records;
                }
            }));
        }
        barrier.await();
        long start = System.nanoTime();
        barrier.await(TIMEOUT.toSeconds(), java.util.concurrent.TimeUnit.SECONDS);
        double seconds = seconds(start);
        long records = 0;
        for (Future<Long> one : reading) {
            records += one.get();
        }
        threads.shutdown();
        System.out.println(seconds + " " + records + " " + (broker.counted("RemoteFetchBytesPerSec", topic) - before));
    }

    private static List<Map<TopicPartition, Long>> shares(Map<TopicPartition, Long> ends, int consumers) {
        List<Map<TopicPartition, Long>> shares = new ArrayList<>();
        for (int nth = 0; nth < consumers; nth++) {
            shares.add(new HashMap<>());
        }
        ends.forEach((partition, end) -> shares.get(partition.partition() % consumers).put(partition, end));
        return shares;
    }

    /**
     * Prints what of the heap is in use after a collection of all of it during consumption, its median and the most,
     * and the most direct memory, in bytes.
     */
    private void memory(Broker broker, String topic, int partitions, int consumers, int seconds) throws Exception {
        Map<TopicPartition, Long> ends = remoteEnds(broker, topic, partitions);
        Instant end = Instant.now().plusSeconds(seconds);
        ExecutorService threads = Executors.newFixedThreadPool(consumers);
        List<Future<Void>> reading = new ArrayList<>();
        for (Map<TopicPartition, Long> share : shares(ends, consumers)) {
            reading.add(threads.submit((Callable<Void>) () -> {
                try (KafkaConsumer<byte[], byte[]> consumer = consumer(broker, topic)) {
                    while (Instant.now().isBefore(end)) {
                        readAll(consumer, share, () -> Instant.now().isAfter(end));
                    }
                    return null;
                }
            }));
        }
        List<Long> heaps = new ArrayList<>();
        long direct = 0;
        Thread.sleep(1000);
        while (Instant.now().isBefore(end)) {
            heaps.add(broker.heapAfterCollection());
            for (int nth = 0; nth < 5; nth++) {
                direct = Math.max(direct, broker.direct());
                Thread.sleep(100);
            }
        }
        for (Future<Void> one : reading) {
            one.get();
        }
        threads.shutdown();
        Collections.sort(heaps);
        System.out.println(heaps.get(heaps.size() / 2) + " " + heaps.get(heaps.size() - 1) + " " + direct);
    }

    /**
     * For each line of a file, a partition and an offset: a new consumer that is connected goes there. Prints the
     * milliseconds from its first poll to its first records.
     */
    private void seek(Broker broker, String topic, Path places) throws Exception {
        for (String line : Files.readAllLines(places)) {
            String[] place = line.split(" ");
            TopicPartition partition = new TopicPartition(topic, Integer.parseInt(place[0]));
            try (KafkaConsumer<byte[], byte[]> consumer = consumer(broker, topic)) {
                consumer.assign(List.of(partition));
                consumer.seek(partition, Long.parseLong(place[1]));
                long start = System.nanoTime();
                Instant end = Instant.now().plus(TIMEOUT);
                while (consumer.poll(Duration.ofMillis(200)).isEmpty()) {
                    if (Instant.now().isAfter(end)) {
                        throw new IllegalStateException("there is no record at " + line);
                    }
                }
                System.out.println(seconds(start) * 1e3);
            }
            // What the consumer asked for beyond its first records must not take part in the next time.
            Thread.sleep(50);
        }
    }

    /**
     * Opens each remote segment of a topic once through the plugin itself, at a random position, in random order. Prints
     * the milliseconds until the first byte is there.
     */
    private void fetch(Broker broker, String topic, Path jar, String workers, long seed) throws Exception {
        List<RemoteLogSegmentMetadata> segments = new ArrayList<>(segments(broker, topic));
        Random random = new Random(seed);
        Collections.shuffle(segments, random);
        try (URLClassLoader loader = new URLClassLoader(new URL[] {jar.toUri().toURL()}, Bench.class.getClassLoader());
                RemoteStorageManager manager =
                    (RemoteStorageManager) loader.loadClass(MANAGER).getDeclaredConstructor().newInstance()) {
            manager.configure(Map.of("workers", workers, "broker.id", 1, "fetch.parked.max", "0"));
            for (RemoteLogSegmentMetadata segment : segments) {
                int position = random.nextInt(segment.segmentSizeInBytes());
                long start = System.nanoTime();
                try (InputStream bytes = manager.fetchLogSegment(segment, position)) {
                    if (bytes.read() < 0) {
                        throw new IllegalStateException("there is no byte at " + position + " of " + segment);
                    }
                    System.out.println(seconds(start) * 1e3);
                }
            }
        }
    }

    /** The segments of a topic whose copy is finished, from Kafka's own metadata. */
    private static List<RemoteLogSegmentMetadata> segments(Broker broker, String topic) throws Exception {
        String metadataTopic = "__remote_log_metadata";
        Map<RemoteLogSegmentId, RemoteLogSegmentMetadata> segments = new LinkedHashMap<>();
        RemoteLogMetadataSerde serde = new RemoteLogMetadataSerde();
        try (KafkaConsumer<byte[], byte[]> consumer = consumer(broker, metadataTopic)) {
            List<TopicPartition> partitions = consumer.partitionsFor(metadataTopic).stream()
                .map(one -> new TopicPartition(metadataTopic, one.partition())).collect(Collectors.toList());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (ends.entrySet().stream().anyMatch(one -> consumer.position(one.getKey()) < one.getValue())) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    RemoteLogMetadata metadata = serde.deserialize(record.value());
                    if (metadata instanceof RemoteLogSegmentMetadata) {
                        RemoteLogSegmentMetadata segment = (RemoteLogSegmentMetadata) metadata;
                        segments.put(segment.remoteLogSegmentId(), segment);
                    } else if (metadata instanceof RemoteLogSegmentMetadataUpdate) {
                        RemoteLogSegmentMetadataUpdate update = (RemoteLogSegmentMetadataUpdate) metadata;
                        segments.computeIfPresent(update.remoteLogSegmentId(),
                            (id, segment) -> segment.createWithUpdates(update));
                    }
                }
            }
        }
        return segments.values().stream()
            .filter(segment -> segment.topicIdPartition().topic().equals(topic)
                && segment.state() == RemoteLogSegmentState.COPY_SEGMENT_FINISHED)
            .collect(Collectors.toList());
    }

    /** Logs of a service as JSON, about 1 kB each. The same seed makes the same logs. */
    private static final class Logs {
        private static final String[] LEVELS = {"info", "info", "info", "info", "info", "debug", "warn", "error"};
        private static final String[] SERVICES = {"checkout", "payments", "search", "gateway", "inventory", "users"};
        private static final String[] METHODS = {"GET", "GET", "GET", "POST", "PUT", "DELETE"};
        private static final int[] STATUSES = {200, 200, 200, 200, 200, 201, 204, 301, 400, 404, 429, 500, 503};
        private static final String[] PATHS = {"/api/v2/orders/", "/api/v2/carts/", "/api/v1/users/", "/internal/stock/"};
        private static final String AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/";
        private static final int VOCABULARY = 4000;

        private final SplittableRandom random;
        private final String[] vocabulary = new String[VOCABULARY];
        private final StringBuilder text = new StringBuilder(2048);
        private long timeMs = 1_772_000_000_000L;
        private int user;

        Logs(long seed) {
            random = new SplittableRandom(seed);
            for (int nth = 0; nth < VOCABULARY; nth++) {
                StringBuilder word = new StringBuilder();
                for (int letters = 3 + random.nextInt(8); letters > 0; letters--) {
                    word.append((char) ('a' + random.nextInt(26)));
                }
                vocabulary[nth] = word.toString();
            }
        }

        byte[] key() {
            return ("user-" + user).getBytes(StandardCharsets.ISO_8859_1);
        }

        byte[] next() {
            timeMs += random.nextInt(4);
            user = random.nextInt(100_000);
            String service = pick(SERVICES);
            text.setLength(0);
            text.append("{\"timestamp_ms\":").append(timeMs)
                .append(",\"level\":\"").append(pick(LEVELS))
                .append("\",\"service\":\"").append(service)
                .append("\",\"host\":\"").append(service).append("-7f9c64d5b8-").append(random.nextInt(40))
                .append("\",\"trace_id\":\"").append(hex()).append(hex())
                .append("\",\"span_id\":\"").append(hex())
                .append("\",\"method\":\"").append(pick(METHODS))
                .append("\",\"path\":\"").append(pick(PATHS)).append(random.nextInt(1_000_000))
                .append("\",\"status\":").append(STATUSES[random.nextInt(STATUSES.length)])
                .append(",\"duration_us\":").append(random.nextInt(2_000_000))
                .append(",\"bytes\":").append(random.nextInt(65_536))
                .append(",\"user\":\"user-").append(user)
                .append("\",\"client\":\"10.").append(random.nextInt(256)).append('.').append(random.nextInt(256)).append('.')
                .append(random.nextInt(256))
                .append("\",\"agent\":\"").append(AGENT).append(100 + random.nextInt(30)).append(".0.0.0")
                .append("\",\"message\":\"");
            for (int words = 40 + random.nextInt(80); words > 0; words--) {
                // Small numbers are more frequent, as words are in text.
                double skewed = random.nextDouble();
                text.append(vocabulary[(int) (skewed * skewed * skewed * VOCABULARY)]).append(' ');
            }
            text.append("\"}");
            return text.toString().getBytes(StandardCharsets.ISO_8859_1);
        }

        private String pick(String[] from) {
            return from[random.nextInt(from.length)];
        }

        private String hex() {
            long bits = random.nextLong();
            StringBuilder hex = new StringBuilder(16);
            for (int nth = 0; nth < 16; nth++, bits >>>= 4) {
                hex.append(Character.forDigit((int) (bits & 15), 16));
            }
            return hex.toString();
        }
    }
}
