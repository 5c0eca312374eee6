package io.walindexer.kafka;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteResourceNotFoundException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ParkedStreamsTest {
    private static final int SIZE = 12_000_000;
    private static final int MIB = 1 << 20;

    @TempDir
    Path folder;
    private ScriptedWorker worker;
    private Broker broker;
    private WalIndexerRemoteStorageManager plugin;
    private RemoteLogSegmentMetadata copy;

    @BeforeEach
    void start() throws Exception {
        worker = new ScriptedWorker();
        broker = new Broker(folder, SIZE);
        configure();
        copy = broker.attempt();
        plugin.copyLogSegmentData(copy, broker.data(false));
    }

    private void configure(Object... settings) {
        if (plugin != null) {
            plugin.close();
        }
        Object[] all = Arrays.copyOf(settings, settings.length + 2);
        all[settings.length] = "startup.check";
        all[settings.length + 1] = false;
        plugin = Broker.plugin(worker, all);
    }

    @AfterEach
    void stop() throws Exception {
        plugin.close();
        worker.close();
    }

    // As Kafka does it: open without an end, read, close.
    private void fetch(RemoteLogSegmentMetadata segment, int start, int length) throws Exception {
        try (InputStream stream = plugin.fetchLogSegment(segment, start)) {
            assertArrayEquals(Arrays.copyOfRange(broker.segment, start, Math.min(SIZE, start + length)),
                stream.readNBytes(length));
        }
    }

    private long metric(String name) {
        return plugin.metrics().get(name).getAsLong();
    }

    @Test
    void lesson_36_a_consumer_that_reads_on_opens_a_segment_once() throws Exception {
        for (int i = 0; i < 11; i++) {
            // The position of an index entry before the batch that was cut off.
            int behind = i == 0 ? 0 : new int[] {0, 1, 4096, 70_000, MIB, 2 * MIB - 1}[i % 6];
            fetch(copy, Math.max(0, i * MIB - behind), MIB + behind);
        }
        assertEquals(1, worker.readCalls.get());
        assertEquals(10, metric("parked-hits-total"));
        fetch(copy, 11 * MIB, MIB);
        Broker.await("the call ends with the segment", () -> worker.callsInFlight.get() == 0);
        assertEquals(0, metric("parked-streams"));
    }

    @Test
    void lesson_36_every_size_of_message_can_be_continued() throws Exception {
        for (int chunkBytes : new int[] {1_000, 65_536, MIB}) {
            worker.chunkBytes = chunkBytes;
            int before = worker.readCalls.get();
            for (int at = 0; at < 6 * MIB; at += 300_000) {
                fetch(copy, Math.max(0, at - 5_000), 305_000);
            }
            assertEquals(before + 1, worker.readCalls.get());
            plugin.close();
            configure();
        }
    }

    @Test
    void a_start_that_is_too_far_behind_or_ahead_opens_the_segment_again() throws Exception {
        configure("fetch.replay.bytes", 100_000);
        fetch(copy, 0, 3 * MIB);
        fetch(copy, 0, 10);
        assertEquals(2, worker.readCalls.get());
        fetch(copy, 8 * MIB, 10);
        assertEquals(3, worker.readCalls.get());
        assertEquals(3, metric("parked-streams"));
        fetch(copy, 3 * MIB - 90_000, 10);
        assertEquals(3, worker.readCalls.get());
    }

    @Test
    void a_stream_has_one_reader() throws Exception {
        fetch(copy, 0, MIB);
        try (InputStream first = plugin.fetchLogSegment(copy, MIB); InputStream second =
                plugin.fetchLogSegment(copy, MIB)) {
            assertEquals(2, worker.readCalls.get());
            for (int i = 0; i < 100; i++) {
                byte[] expected = Arrays.copyOfRange(broker.segment, MIB + i * 100, MIB + (i + 1) * 100);
                assertArrayEquals(expected, first.readNBytes(100));
                assertArrayEquals(expected, second.readNBytes(100));
            }
        }
        assertEquals(2, metric("parked-streams"));
    }

    @Test
    void a_stream_is_not_used_for_another_copy_of_the_same_segment() throws Exception {
        RemoteLogSegmentMetadata other = broker.attempt();
        plugin.copyLogSegmentData(other, broker.data(false));
        fetch(copy, 0, MIB);
        fetch(other, MIB, MIB);
        assertEquals(2, worker.readCalls.get());
    }

    @Test
    void the_number_of_kept_streams_is_bounded_and_the_oldest_goes() throws Exception {
        configure("fetch.parked.max", 2);
        List<RemoteLogSegmentMetadata> copies = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            copies.add(broker.attempt());
            plugin.copyLogSegmentData(copies.get(i), broker.data(false));
            fetch(copies.get(i), 0, 100);
        }
        assertEquals(2, metric("parked-streams"));
        Broker.await("the oldest is cancelled", () -> worker.cancelledCalls.get() == 1);
        fetch(copies.get(2), 100, 100);
        fetch(copies.get(1), 100, 100);
        assertEquals(3, worker.readCalls.get());
        fetch(copies.get(0), 100, 100);
        assertEquals(4, worker.readCalls.get());
    }

    @Test
    void no_stream_is_kept_if_none_is_allowed() throws Exception {
        configure("fetch.parked.max", 0);
        fetch(copy, 0, MIB);
        Broker.await("the call is cancelled", () -> worker.cancelledCalls.get() == 1);
        fetch(copy, MIB, MIB);
        assertEquals(2, worker.readCalls.get());
    }

    @Test
    void a_stream_that_nobody_comes_for_is_cancelled() throws Exception {
        configure("fetch.parked.idle.ms", 300L);
        fetch(copy, 0, MIB);
        assertEquals(0, worker.cancelledCalls.get());
        Broker.await("the call is cancelled", () -> worker.cancelledCalls.get() == 1);
        assertEquals(0, metric("parked-streams"));
    }

    @Test
    void the_memory_of_a_kept_stream_is_bounded() throws Exception {
        worker.chunkBytes = MIB;
        configure("fetch.replay.bytes", 2 * MIB);
        fetch(copy, 0, 9 * MIB);
        // Of 9 messages, those are kept that have one of the last 2 MiB.
        Connection connection = plugin.connection();
        assertTrue(connection.parked().keptBytes() <= 4L * MIB, connection.parked().keptBytes() + " bytes");
        assertTrue(connection.parked().keptBytes() >= 2L * MIB, connection.parked().keptBytes() + " bytes");
    }

    @Test
    void a_stream_that_broke_while_it_was_kept_is_opened_again() throws Exception {
        fetch(copy, 0, MIB);
        int port = worker.port();
        ScriptedWorker.Store store = worker.store();
        worker.close();
        worker = new ScriptedWorker(store, io.grpc.InsecureServerCredentials.create(), port);
        fetch(copy, MIB, MIB);
        assertEquals(1, worker.readCalls.get());
    }

    @Test
    void a_stream_that_failed_is_not_kept() throws Exception {
        worker.readFailures.add(ScriptedWorker.error(io.grpc.Status.Code.DATA_LOSS, "BUNDLE_CORRUPT", 0));
        try (InputStream stream = plugin.fetchLogSegment(copy, 0)) {
            assertThrows(IOException.class, stream::readAllBytes);
        }
        assertEquals(0, metric("parked-streams"));
        fetch(copy, 0, MIB);
        assertEquals(2, worker.readCalls.get());
    }

    @Test
    void a_deletion_ends_the_copys_kept_streams() throws Exception {
        fetch(copy, 0, MIB);
        plugin.deleteLogSegmentData(copy);
        assertThrows(RemoteResourceNotFoundException.class, () -> plugin.fetchLogSegment(copy, MIB));
    }

    @Test
    void a_fetch_with_an_end_keeps_no_stream() throws Exception {
        try (InputStream stream = plugin.fetchLogSegment(copy, 0, MIB)) {
            stream.readNBytes(10);
        }
        assertEquals(0, metric("parked-streams"));
    }

    @Test
    void closing_the_plugin_ends_the_kept_streams() throws Exception {
        fetch(copy, 0, MIB);
        plugin.close();
        Broker.await("the call has ended", () -> worker.callsInFlight.get() == 0);
    }
}
