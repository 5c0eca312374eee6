package io.walindexer.kafka;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status;
import java.io.IOException;
import java.io.InputStream;
import java.io.InterruptedIOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteResourceNotFoundException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager.IndexType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class FetchTest {
    private static final int SIZE = 12_000_000;

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
        plugin = Broker.plugin(worker, "startup.check", false);
        copy = broker.attempt();
        plugin.copyLogSegmentData(copy, broker.data(false));
    }

    @AfterEach
    void stop() throws Exception {
        plugin.close();
        worker.close();
    }

    @Test
    void a_fetch_gives_the_bytes_from_its_start_to_the_segments_end() throws Exception {
        for (int start : new int[] {0, 1, 65_535, 65_536, 7_654_321, SIZE - 1, SIZE}) {
            try (InputStream stream = plugin.fetchLogSegment(copy, start)) {
                assertArrayEquals(Arrays.copyOfRange(broker.segment, start, SIZE), stream.readAllBytes());
                assertEquals(-1, stream.read());
            }
        }
    }

    @Test
    void the_end_that_kafka_names_is_inclusive() throws Exception {
        assertArrayEquals(Arrays.copyOfRange(broker.segment, 100, 201),
            plugin.fetchLogSegment(copy, 100, 200).readAllBytes());
        assertEquals(201, worker.reads.get(0).getEnd());
        assertArrayEquals(Arrays.copyOfRange(broker.segment, 5, 6),
            plugin.fetchLogSegment(copy, 5, 5).readAllBytes());
        assertArrayEquals(Arrays.copyOfRange(broker.segment, SIZE - 9, SIZE),
            plugin.fetchLogSegment(copy, SIZE - 9, Integer.MAX_VALUE).readAllBytes());
    }

    @Test
    void a_position_outside_the_segment_is_refused() {
        assertThrows(RemoteStorageException.class, () -> plugin.fetchLogSegment(copy, -1));
        assertThrows(RemoteStorageException.class, () -> plugin.fetchLogSegment(copy, SIZE + 1));
        assertThrows(RemoteStorageException.class, () -> plugin.fetchLogSegment(copy, 100, 98));
        assertEquals(0, worker.readCalls.get());
    }

    @Test
    void a_segment_that_is_not_there_is_known_when_it_is_opened() {
        RemoteResourceNotFoundException failure = assertThrows(RemoteResourceNotFoundException.class,
            () -> plugin.fetchLogSegment(broker.attempt(), 0));
        assertTrue(failure.getMessage().startsWith("fetch of orders:3:17 failed: NOT_FOUND (SEGMENT_NOT_FOUND)"),
            failure.getMessage());
    }

    @Test
    void lesson_32_without_custom_metadata_a_segment_is_found_by_its_name() throws Exception {
        assertTrue(copy.customMetadata().isEmpty());
        assertArrayEquals(broker.segment, plugin.fetchLogSegment(copy, 0).readAllBytes());
        assertTrue(worker.reads.get(0).getLocator().isEmpty());
        plugin.deleteLogSegmentData(copy);
        assertEquals(0, worker.storedCopies());
    }

    @Test
    void lesson_36_a_fetch_is_lazy() throws Exception {
        try (InputStream stream = plugin.fetchLogSegment(copy, 0)) {
            stream.readNBytes(100);
            Thread.sleep(500);
            // One message is read. Behind it there is what flow control allows: the stream's window, and what the
            // worker's own transport buffers.
            int bytes = worker.readMessages.get() * worker.chunkBytes;
            assertTrue(bytes <= Dialer.FLOW_CONTROL_WINDOW + 4 * worker.chunkBytes, bytes + " bytes");
            assertTrue(bytes > 0);
        }
    }

    @Test
    void lesson_37_a_read_that_is_interrupted_ends_at_once_and_its_call_too() throws Exception {
        worker.hangReadsAfterMessages = 2;
        InputStream stream = plugin.fetchLogSegment(copy, 0);
        Broker.Task<?> reading = Broker.inBackground(stream::readAllBytes);
        Broker.await("two messages are read", () -> worker.readMessages.get() == 2);
        Thread.sleep(200);
        Throwable failure = reading.assertInterruptedWithin(Duration.ofSeconds(1));
        assertInstanceOf(InterruptedIOException.class, failure);
        Broker.await("the call is cancelled", () -> worker.cancelledCalls.get() == 1);
        assertEquals(1, plugin.metrics().get("fetch-errors-total").getAsLong());
        assertThrows(IOException.class, stream::read);
        stream.close();
        assertEquals(0L, parkedStreams());
        worker.hangReadsAfterMessages = Integer.MAX_VALUE;
        assertArrayEquals(broker.segment, plugin.fetchLogSegment(copy, 0).readAllBytes());
    }

    @Test
    void lesson_37_streams_that_are_cancelled_leave_a_connection_that_works() throws Exception {
        try (WalIndexerRemoteStorageManager unparked = Broker.plugin(worker, "fetch.parked.max", 0)) {
            for (int i = 0; i < 30; i++) {
                try (InputStream stream = unparked.fetchLogSegment(copy, 0)) {
                    assertEquals(100, stream.readNBytes(100).length);
                }
            }
            assertArrayEquals(broker.segment, unparked.fetchLogSegment(copy, 0).readAllBytes());
            Broker.await("all but the last are cancelled", () -> worker.cancelledCalls.get() == 30);
        }
    }

    @Test
    void lesson_37_an_opening_that_is_interrupted_ends_at_once_and_its_call_too() throws Exception {
        worker.hangs = true;
        Broker.Task<?> opening = Broker.inBackground(() -> plugin.fetchLogSegment(copy, 0));
        Broker.await("the call has begun", () -> worker.readCalls.get() == 1);
        Throwable failure = opening.assertInterruptedWithin(Duration.ofSeconds(1));
        assertInstanceOf(RemoteStorageException.class, failure);
        Broker.await("the call is cancelled", () -> worker.cancelledCalls.get() == 1);
    }

    @Test
    void lesson_37_a_thread_that_was_interrupted_before_reads_nothing_and_keeps_nothing() throws Exception {
        Broker.Task<?> task = Broker.inBackground(() -> {
            try (InputStream stream = plugin.fetchLogSegment(copy, 0)) {
                stream.readNBytes(10);
                Thread.currentThread().interrupt();
                return stream.read();
            }
        });
        assertInstanceOf(InterruptedIOException.class, task.failure());
        assertEquals(0L, parkedStreams());
        Broker.await("the call is cancelled", () -> worker.cancelledCalls.get() == 1);
    }

    @Test
    void lesson_33_a_fetch_that_hangs_ends_at_its_deadline() throws Exception {
        try (WalIndexerRemoteStorageManager hurried = Broker.plugin(worker, "fetch.timeout.ms", 400L)) {
            worker.hangReadsAfterMessages = 2;
            InputStream stream = hurried.fetchLogSegment(copy, 0);
            long start = System.nanoTime();
            IOException failure = assertThrows(IOException.class, stream::readAllBytes);
            assertTrue(failure.getMessage().contains("DEADLINE_EXCEEDED"), failure.getMessage());
            assertTrue(System.nanoTime() - start < TimeUnit.SECONDS.toNanos(3));
            Broker.await("the call is cancelled", () -> worker.callsInFlight.get() == 0);
            worker.hangs = true;
            RemoteStorageException unopened = assertThrows(RemoteStorageException.class,
                () -> hurried.fetchLogSegment(copy, 0));
            assertTrue(unopened.getMessage().contains("DEADLINE_EXCEEDED"), unopened.getMessage());
        }
    }

    @Test
    void a_read_goes_on_at_another_worker_if_its_worker_goes_away() throws Exception {
        for (Status.Code code : new Status.Code[] {Status.Code.UNAVAILABLE, Status.Code.CANCELLED}) {
            worker.reads.clear();
            worker.readFailures.add(ScriptedWorker.error(code, "DRAINING", 0));
            assertArrayEquals(broker.segment, plugin.fetchLogSegment(copy, 0).readAllBytes());
            assertEquals(2, worker.reads.size());
            assertEquals(2L * worker.chunkBytes, worker.reads.get(1).getPosition());
        }
    }

    @Test
    void a_read_that_never_gets_on_fails() throws Exception {
        worker.failReadsAfterMessages = 1;
        worker.chunkBytes = 0;
        for (int i = 0; i < 20; i++) {
            worker.readFailures.add(ScriptedWorker.error(Status.Code.UNAVAILABLE, "STORE_UNAVAILABLE", 0));
        }
        InputStream stream = plugin.fetchLogSegment(copy, 0);
        IOException failure = assertThrows(IOException.class, stream::read);
        assertTrue(failure.getMessage().contains("UNAVAILABLE (STORE_UNAVAILABLE)"), failure.getMessage());
        assertTrue(worker.readCalls.get() < 10, worker.readCalls.get() + " calls");
    }

    @Test
    void damage_is_not_read_again() throws Exception {
        worker.readFailures.add(ScriptedWorker.error(Status.Code.DATA_LOSS, "BUNDLE_CORRUPT", 0));
        InputStream stream = plugin.fetchLogSegment(copy, 0);
        IOException failure = assertThrows(IOException.class, stream::readAllBytes);
        assertTrue(failure.getMessage().contains("DATA_LOSS (BUNDLE_CORRUPT)"), failure.getMessage());
        assertEquals(1, worker.readCalls.get());
    }

    @Test
    void a_stream_with_other_bytes_than_the_segment_has_is_an_error() throws Exception {
        worker.editRead = message -> message.getSegmentSizeBytes() == 0 ? message
            : message.toBuilder().setSegmentSizeBytes(SIZE - 1).build();
        RemoteStorageException failure = assertThrows(RemoteStorageException.class,
            () -> plugin.fetchLogSegment(copy, 0));
        assertTrue(failure.getMessage().contains("the stored segment has 11999999 bytes"), failure.getMessage());
        worker.editRead = message -> message.getChunk().size() == worker.chunkBytes ? message
            : message.toBuilder().setChunk(message.getChunk().substring(1)).build();
        IOException truncated = assertThrows(IOException.class, () -> plugin.fetchLogSegment(copy, 0).readAllBytes());
        assertTrue(truncated.getMessage().contains("ended the segment at 11999999"), truncated.getMessage());
        worker.editRead = message -> message.getChunk().size() == worker.chunkBytes ? message
            : message.toBuilder().setChunk(message.getChunk().concat(message.getChunk().substring(0, 1))).build();
        IOException longer = assertThrows(IOException.class, () -> plugin.fetchLogSegment(copy, 0).readAllBytes());
        assertTrue(longer.getMessage().contains("beyond 12000000"), longer.getMessage());
    }

    @Test
    void lesson_35_no_transaction_index_is_not_found() {
        RemoteResourceNotFoundException failure = assertThrows(RemoteResourceNotFoundException.class,
            () -> plugin.fetchIndex(copy, IndexType.TRANSACTION));
        assertTrue(failure.getMessage().startsWith(
            "fetch of the TRANSACTION index of orders:3:17 failed: NOT_FOUND (ATTACHMENT_NOT_FOUND)"),
            failure.getMessage());
    }

    @Test
    void lesson_33_an_index_and_a_deletion_that_hang_end_at_their_deadlines() throws Exception {
        worker.hangs = true;
        try (WalIndexerRemoteStorageManager hurried = Broker.plugin(worker, "startup.check", false,
                "index.timeout.ms", 300L, "delete.timeout.ms", 300L)) {
            assertTrue(assertThrows(RemoteStorageException.class, () -> hurried.fetchIndex(copy, IndexType.OFFSET))
                .getMessage().contains("DEADLINE_EXCEEDED"));
            assertTrue(assertThrows(RemoteStorageException.class, () -> hurried.deleteLogSegmentData(copy))
                .getMessage().contains("DEADLINE_EXCEEDED"));
            Broker.await("both calls are cancelled", () -> worker.callsInFlight.get() == 0);
        }
    }

    @Test
    void a_deletion_may_be_repeated_and_may_be_for_a_copy_that_never_was() throws Exception {
        plugin.deleteLogSegmentData(copy);
        plugin.deleteLogSegmentData(copy);
        plugin.deleteLogSegmentData(broker.attempt());
        worker.failures.add(ScriptedWorker.error(Status.Code.NOT_FOUND, "SEGMENT_NOT_FOUND", 0));
        plugin.deleteLogSegmentData(copy);
        assertEquals(4, worker.deleteCalls.get());
        assertThrows(RemoteResourceNotFoundException.class, () -> plugin.fetchLogSegment(copy, 0));
    }

    @Test
    void a_deletion_that_is_refused_is_an_error() {
        worker.failures.add(ScriptedWorker.error(Status.Code.PERMISSION_DENIED, "ROLE_MISSING", 0));
        RemoteStorageException failure = assertThrows(RemoteStorageException.class,
            () -> plugin.deleteLogSegmentData(copy));
        assertTrue(failure.getMessage().startsWith("deletion of orders:3:17 failed: PERMISSION_DENIED (ROLE_MISSING)"),
            failure.getMessage());
    }

    @Test
    void a_worker_that_takes_connections_and_never_answers_fails_no_call() throws Exception {
        try (java.net.ServerSocket silent = new java.net.ServerSocket(0, 1);
                WalIndexerRemoteStorageManager both = Broker.plugin(
                    Stream.of("127.0.0.1:" + silent.getLocalPort(), worker.address()), "startup.check", false)) {
            for (int i = 0; i < 6; i++) {
                assertArrayEquals(Arrays.copyOf(broker.segment, 10), both.fetchLogSegment(copy, 0, 9).readAllBytes());
            }
        }
    }

    private long parkedStreams() {
        return plugin.metrics().get("parked-streams").getAsLong();
    }
}
