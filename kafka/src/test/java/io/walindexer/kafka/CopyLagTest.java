package io.walindexer.kafka;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.LongSupplier;
import java.util.stream.Stream;
import javax.management.MBeanServer;
import javax.management.ObjectName;
import org.apache.kafka.common.TopicIdPartition;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentId;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** {@code orders:3} has sealed segments of 1000 bytes at 0, of 500 at 10 and of 200 at 20, and writes to 30. */
class CopyLagTest {
    private static final long BEGINNING_MS = 1_000_000_000;
    private static final TopicPartition ORDERS = new TopicPartition("orders", 3);

    @TempDir
    Path folder;
    private final AtomicLong nowMs = new AtomicLong(BEGINNING_MS);
    private final Map<TopicPartition, Map<String, LongSupplier>> published = new HashMap<>();
    private final CopyLag lag = new CopyLag(new CopyLag.Publisher() {
        @Override
        public void add(TopicPartition partition, Map<String, LongSupplier> values) {
            published.put(partition, values);
        }

        @Override
        public void remove(TopicPartition partition) {
            published.remove(partition);
        }
    }, nowMs::get);

    /** A segment that was sealed at this time. */
    private static Path segment(Path directory, long offset, int bytes, long sealedAtMs) throws Exception {
        Path file = directory.resolve(String.format("%020d.log", offset));
        Files.write(file, new byte[bytes]);
        return Files.setLastModifiedTime(file, FileTime.fromMillis(sealedAtMs));
    }

    private Path orders() throws Exception {
        Path directory = Files.createDirectories(folder.resolve("orders-3"));
        segment(directory, 0, 1_000, BEGINNING_MS - 3_000);
        segment(directory, 10, 500, BEGINNING_MS - 2_000);
        segment(directory, 20, 200, BEGINNING_MS - 1_000);
        segment(directory, 30, 70, BEGINNING_MS);
        Files.write(directory.resolve("00000000000000000010.index"), new byte[10]);
        Files.write(directory.resolve("00000000000000000000.log.deleted"), new byte[10]);
        return directory;
    }

    private static RemoteLogSegmentMetadata metadata(TopicPartition partition, long offset) {
        TopicIdPartition of = new TopicIdPartition(Broker.TOPIC_ID, partition);
        return new RemoteLogSegmentMetadata(new RemoteLogSegmentId(of, Uuid.randomUuid()), offset, offset + 9, 1, 1, 1,
            1_000, Map.of(0, 0L));
    }

    private static LogSegmentData data(Path directory, long offset) {
        Path log = directory.resolve(String.format("%020d.log", offset));
        return new LogSegmentData(log, log, log, Optional.empty(), log, ByteBuffer.allocate(0));
    }

    private <T> T copy(TopicPartition partition, Path directory, long offset, CopyLag.Copy<T> copy) throws Exception {
        return lag.during(metadata(partition, offset), data(directory, offset), copy);
    }

    /** Bytes, segments and age of what waits in {@code orders:3}. */
    private void assertWaiting(long bytes, long segments, long ageMs) {
        assertEquals(Map.of("copy-lag-bytes", bytes, "copy-lag-segments", segments, "copy-lag-age-ms", ageMs),
            values(published.get(ORDERS)));
        Map<String, LongSupplier> all = new TreeMap<>();
        lag.addTo(all);
        assertEquals(Map.of("copy-lag-partitions", 1L, "copy-lag-bytes", bytes, "copy-lag-segments", segments,
            "copy-lag-age-ms-max", ageMs), values(all));
    }

    private static Map<String, Long> values(Map<String, LongSupplier> suppliers) {
        Map<String, Long> values = new HashMap<>();
        suppliers.forEach((name, value) -> values.put(name, value.getAsLong()));
        return values;
    }

    @Test
    void lesson_41_what_waits_is_seen_by_bytes_and_by_age_while_copies_hang_fail_and_succeed() throws Exception {
        Path directory = orders();
        copy(ORDERS, directory, 0, () -> {
            assertWaiting(1_700, 3, 3_000);
            nowMs.addAndGet(60_000);
            assertWaiting(1_700, 3, 63_000);
            return null;
        });
        assertWaiting(700, 2, 62_000);
        assertThrows(WorkerException.class, () -> copy(ORDERS, directory, 10, () -> {
            throw WorkerException.of(io.grpc.Status.Code.UNAVAILABLE, "away", "worker");
        }));
        nowMs.addAndGet(1_000);
        assertWaiting(700, 2, 63_000);
        // The copied ones go by retention, and another one is sealed meanwhile.
        Files.delete(directory.resolve("00000000000000000000.log"));
        segment(directory, 40, 1, nowMs.get());
        copy(ORDERS, directory, 10, () -> null);
        assertWaiting(270, 2, 62_000);
        copy(ORDERS, directory, 20, () -> null);
        copy(ORDERS, directory, 30, () -> null);
        assertWaiting(0, 0, 0);
    }

    @Test
    void lesson_41_a_partition_that_is_not_copied_here_any_more_is_not_shown() throws Exception {
        Path directory = orders();
        copy(ORDERS, directory, 0, () -> null);
        nowMs.addAndGet(CopyLag.FORGOTTEN_AFTER_MS - 1);
        lag.removeExpired();
        assertEquals(Set.of(ORDERS), published.keySet());
        nowMs.incrementAndGet();
        lag.removeExpired();
        assertEquals(Set.of(), published.keySet());
        // Not while a copy hangs, however long.
        copy(ORDERS, directory, 10, () -> {
            nowMs.addAndGet(10 * CopyLag.FORGOTTEN_AFTER_MS);
            lag.removeExpired();
            assertEquals(Set.of(ORDERS), published.keySet());
            return null;
        });
        // Kafka interrupts copies of partitions that another broker leads.
        assertThrows(InterruptedException.class, () -> copy(ORDERS, directory, 20, () -> {
            throw new InterruptedException();
        }));
        assertEquals(Set.of(), published.keySet());
        // A topic that is deleted has no directory.
        assertEquals("copied", copy(ORDERS, folder.resolve("missing"), 20, () -> "copied"));
        assertEquals(Set.of(), published.keySet());
    }

    @Test
    void lesson_41_the_number_of_partitions_is_bounded() throws Exception {
        Path directory = orders();
        for (int nth = 0; nth <= CopyLag.PARTITIONS_MAX; nth++) {
            nowMs.incrementAndGet();
            copy(new TopicPartition("many", nth), directory, 20, () -> null);
        }
        assertEquals(CopyLag.PARTITIONS_MAX, published.size());
        assertTrue(!published.containsKey(new TopicPartition("many", 0)));
        // A copy that ends later publishes nothing.
        copy(ORDERS, directory, 20, () -> {
            lag.close();
            return null;
        });
        assertEquals(Set.of(), published.keySet());
    }

    @Test
    void lesson_41_each_partition_is_in_jmx_until_the_plugin_is_closed() throws Exception {
        MBeanServer server = ManagementFactory.getPlatformMBeanServer();
        try (ScriptedWorker worker = new ScriptedWorker()) {
            Broker broker = new Broker(folder, 1_000);
            segment(folder, 100, 300, System.currentTimeMillis() - 60_000);
            segment(folder, 200, 30, System.currentTimeMillis());
            Map<String, Object> config = Broker.config(Stream.of(worker.address()));
            String id = config.get("broker.id").toString();
            ObjectName name = new ObjectName(PluginMBean.name(id, broker.partition.topicPartition()));
            assertTrue(name.toString().endsWith(",topic=orders,partition=3"), name.toString());
            WalIndexerRemoteStorageManager plugin = new WalIndexerRemoteStorageManager();
            plugin.configure(config);
            plugin.copyLogSegmentData(broker.attempt(), broker.data(true));
            assertEquals(300L, server.getAttribute(name, "copy-lag-bytes"));
            assertEquals(1L, server.getAttribute(name, "copy-lag-segments"));
            assertTrue((Long) server.getAttribute(name, "copy-lag-age-ms") >= 60_000);
            ObjectName all = new ObjectName(PluginMBean.name(id));
            assertEquals(300L, server.getAttribute(all, "copy-lag-bytes"));
            assertEquals(1L, server.getAttribute(all, "copy-lag-partitions"));
            worker.failures.add(ScriptedWorker.error(io.grpc.Status.Code.INTERNAL, "SCRIPTED", 0));
            assertThrows(RemoteStorageException.class,
                () -> plugin.copyLogSegmentData(broker.attempt(), broker.data(true)));
            assertEquals(1_300L, server.getAttribute(name, "copy-lag-bytes"));
            plugin.close();
            assertTrue(server.queryNames(name, null).isEmpty());
        }
    }
}
