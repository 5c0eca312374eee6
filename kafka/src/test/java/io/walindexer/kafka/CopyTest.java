package io.walindexer.kafka;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import io.grpc.Status;
import io.walindexer.kafka.v1.Archive.Attachment;
import io.walindexer.kafka.v1.Archive.CopyHeader;
import io.walindexer.kafka.v1.Archive.CopySegmentResponse;
import io.walindexer.kafka.v1.Indexer.IndexSegmentResponse;
import io.walindexer.kafka.v1.Indexer.IndexedPartition;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata.CustomMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager.IndexType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class CopyTest {
    @TempDir
    Path folder;
    private ScriptedWorker worker;
    private Broker broker;
    private WalIndexerRemoteStorageManager plugin;

    @BeforeEach
    void start() throws Exception {
        worker = new ScriptedWorker();
        broker = new Broker(folder, 1_300_000);
        plugin = Broker.plugin(worker);
    }

    @AfterEach
    void stop() throws Exception {
        plugin.close();
        worker.close();
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, 3_000_000})
    void a_copy_is_read_back_byte_for_byte(int size) throws Exception {
        Broker sized = new Broker(Files.createDirectory(folder.resolve("sized")), size);
        RemoteLogSegmentMetadata attempt = sized.attempt();
        CustomMetadata custom = plugin.copyLogSegmentData(attempt, sized.data(true)).orElseThrow();
        RemoteLogSegmentMetadata copy = Broker.finished(attempt, custom);
        assertArrayEquals(sized.segment, plugin.fetchLogSegment(copy, 0).readAllBytes());
        assertArrayEquals(Broker.bytes(4096, 2), plugin.fetchIndex(copy, IndexType.OFFSET).readAllBytes());
        assertArrayEquals(new byte[0], plugin.fetchIndex(copy, IndexType.TIMESTAMP).readAllBytes());
        assertArrayEquals(Broker.bytes(100, 4), plugin.fetchIndex(copy, IndexType.PRODUCER_SNAPSHOT).readAllBytes());
        assertArrayEquals(Broker.bytes(70_000, 5), plugin.fetchIndex(copy, IndexType.TRANSACTION).readAllBytes());
        assertArrayEquals(Broker.bytes(33, 6), plugin.fetchIndex(copy, IndexType.LEADER_EPOCH).readAllBytes());
    }

    @Test
    void the_header_names_the_segment_and_its_index_files() throws Exception {
        Uuid id = Uuid.fromString("-_m3VTYKQwmvlc-zNPcVFA");
        plugin.copyLogSegmentData(broker.attempt(id, broker.segment.length), broker.data(false));
        CopyHeader header = worker.headers.get(0);
        assertEquals("orders", header.getName().getTopic());
        assertEquals(3, header.getName().getPartition());
        assertEquals("Ahm3VTYKQwmvlc-zNPcVFA", header.getName().getLogId());
        assertEquals(17, header.getName().getBaseOffset());
        assertEquals("-_m3VTYKQwmvlc-zNPcVFA", header.getName().getCopyId());
        assertEquals("orders:3:17", header.getSegmentId());
        assertEquals(List.of("offset", "timestamp", "producer_snapshot", "leader_epoch"),
            header.getAttachmentsList().stream().map(Attachment::getName).collect(Collectors.toList()));
    }

    @Test
    void lesson_43_the_last_offset_is_the_one_before_the_next_segment() throws Exception {
        plugin.copyLogSegmentData(broker.attempt(), broker.data(true));
        assertEquals(99, worker.headers.get(0).getLastOffset());
    }

    @Test
    void lesson_31_each_attempt_is_a_copy_of_its_own_and_a_late_deletion_takes_only_its_own() throws Exception {
        RemoteLogSegmentMetadata failed = broker.attempt();
        RemoteLogSegmentMetadata good = broker.attempt();
        plugin.copyLogSegmentData(failed, broker.data(true));
        plugin.copyLogSegmentData(good, broker.data(true));
        assertEquals(2, worker.storedCopies());
        plugin.deleteLogSegmentData(failed);
        assertArrayEquals(broker.segment, plugin.fetchLogSegment(good, 0).readAllBytes());
    }

    @Test
    void lesson_38_custom_metadata_is_within_kafkas_limit_and_names_the_bundle() throws Exception {
        RemoteLogSegmentMetadata attempt = broker.attempt();
        CustomMetadata custom = plugin.copyLogSegmentData(attempt, broker.data(true)).orElseThrow();
        assertTrue(custom.value().length <= 100, custom.value().length + " bytes");
        plugin.fetchLogSegment(Broker.finished(attempt, custom), 0).close();
        assertEquals("locator-of-17", worker.reads.get(worker.reads.size() - 1).getLocator().toStringUtf8());
        worker.editReceipt = reply -> reply.toBuilder().setLocator(ByteString.copyFrom(new byte[64])).build();
        assertEquals(65, plugin.copyLogSegmentData(broker.attempt(), broker.data(true)).orElseThrow().value().length);
        worker.editReceipt = reply -> reply.toBuilder().setLocator(ByteString.copyFrom(new byte[65])).build();
        assertFails("the locator has 65 bytes", broker.attempt(), broker.data(true));
    }

    @Test
    void a_reply_that_does_not_fit_what_was_sent_is_not_a_receipt() {
        assertNoReceipt("the worker's CRC-32C of the segment is", receipt(to -> to.setCrc32C(to.getCrc32C() + 1)));
        assertNoReceipt("the worker read 1299999 bytes of the segment, 1300000 were sent",
            receipt(to -> to.setBytesRead(to.getBytesRead() - 1)));
        assertNoReceipt("the receipt has 0 partitions", receipt(to -> to.clearPartitions()));
        assertNoReceipt("the receipt has 2 partitions", receipt(to -> to.addPartitions(to.getPartitions(0))));
        assertNoReceipt("the receipt is for others:3", partition(to -> to.setTopic("others")));
        assertNoReceipt("the receipt is for orders:4", partition(to -> to.setPartition(4)));
        assertNoReceipt("of the log 0, not for", partition(to -> to.setLogId("0")));
        assertNoReceipt("the receipt names no bundle", partition(to -> to.clearBundle()));
        assertNoReceipt("the receipt has the attachments", reply -> reply.removeAttachments(4));
        assertNoReceipt("the receipt has the attachments", reply -> reply.addAttachments(reply.getAttachments(0)));
        assertNoReceipt("no checksum of the attachment offset", attachment(0, to -> to.clearCrc32C()));
        assertNoReceipt("no checksum of the attachment offset", attachment(0, to -> to.setName("offsets")));
        assertNoReceipt("the worker's CRC-32C of the transaction is", attachment(3, to -> to.setCrc32C(7)));
        assertNoReceipt("the worker read 34 bytes of the leader_epoch, 33 were sent",
            attachment(4, to -> to.setSizeBytes(34)));
    }

    private static Consumer<CopySegmentResponse.Builder> receipt(Consumer<IndexSegmentResponse.Builder> change) {
        return reply -> {
            IndexSegmentResponse.Builder receipt = reply.getReceipt().toBuilder();
            change.accept(receipt);
            reply.setReceipt(receipt);
        };
    }

    private static Consumer<CopySegmentResponse.Builder> partition(Consumer<IndexedPartition.Builder> change) {
        return receipt(receipt -> {
            IndexedPartition.Builder partition = receipt.getPartitions(0).toBuilder();
            change.accept(partition);
            receipt.setPartitions(0, partition);
        });
    }

    private static Consumer<CopySegmentResponse.Builder> attachment(int index, Consumer<Attachment.Builder> change) {
        return reply -> {
            Attachment.Builder attachment = reply.getAttachments(index).toBuilder();
            change.accept(attachment);
            reply.setAttachments(index, attachment);
        };
    }

    private void assertNoReceipt(String message, Consumer<CopySegmentResponse.Builder> change) {
        worker.editReceipt = reply -> {
            CopySegmentResponse.Builder changed = reply.toBuilder();
            change.accept(changed);
            return changed.build();
        };
        assertFails(message, broker.attempt(), broker.data(true));
    }

    private void assertFails(String message, RemoteLogSegmentMetadata attempt, LogSegmentData data) {
        RemoteStorageException failure = assertThrows(RemoteStorageException.class,
            () -> plugin.copyLogSegmentData(attempt, data));
        assertTrue(failure.getMessage().startsWith("copy of orders:3:17 failed: "), failure.getMessage());
        assertTrue(failure.getMessage().contains(message), failure.getMessage());
    }

    @Test
    void the_file_must_have_the_size_that_kafka_says() {
        assertFails("has 1300000 bytes, Kafka's metadata say 1300001",
            broker.attempt(Uuid.randomUuid(), 1_300_001), broker.data(true));
        assertEquals(0, worker.copyCalls.get());
    }

    @Test
    void a_file_that_shrinks_or_grows_while_it_is_read_is_an_error() throws Exception {
        Broker large = new Broker(Files.createDirectory(folder.resolve("large")), 20_000_000);
        worker.stopsReading = true;
        for (int change : new int[] {-1, 1}) {
            int callsBefore = worker.copyCalls.get();
            Broker.Task<?> copy = Broker.inBackground(() ->
                plugin.copyLogSegmentData(large.attempt(), large.data(true)));
            Broker.await("the copy has begun", () -> worker.copyCalls.get() > callsBefore);
            if (change > 0) {
                Files.write(large.log, new byte[] {1}, StandardOpenOption.APPEND);
            } else {
                // At once: a file that is written anew is empty for a moment.
                try (FileChannel file = FileChannel.open(large.log, StandardOpenOption.WRITE)) {
                    file.truncate(large.segment.length - 1);
                }
            }
            worker.resumeReading();
            Throwable failure = copy.failure();
            assertInstanceOf(RemoteStorageException.class, failure);
            assertTrue(failure.getMessage().contains(change > 0 ? "and has 20000001 after they were read"
                : "ended 1 bytes too early"), failure.getMessage());
            Files.write(large.log, large.segment);
        }
        assertEquals(0, worker.storedCopies());
    }

    @Test
    void an_index_file_that_is_missing_is_a_remote_storage_exception() throws Exception {
        Files.delete(folder.resolve("time"));
        assertFails("NoSuchFileException", broker.attempt(), broker.data(true));
    }

    @Test
    void lesson_33_a_copy_that_hangs_ends_at_its_deadline() throws Exception {
        worker.hangs = true;
        try (WalIndexerRemoteStorageManager hurried = Broker.plugin(worker, "startup.check", false,
                "copy.timeout.ms", 500L)) {
            long start = System.nanoTime();
            RemoteStorageException failure = assertThrows(RemoteStorageException.class,
                () -> hurried.copyLogSegmentData(broker.attempt(), broker.data(true)));
            long tookMs = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start);
            assertTrue(failure.getMessage().contains("DEADLINE_EXCEEDED"), failure.getMessage());
            assertTrue(tookMs >= 450 && tookMs < 3_000, tookMs + " ms");
            Broker.await("the call has ended", () -> worker.callsInFlight.get() == 0);
        }
    }

    @Test
    void lesson_33_a_copy_whose_bytes_are_not_taken_ends_at_its_deadline() throws Exception {
        worker.stopsReading = true;
        Broker large = new Broker(Files.createDirectory(folder.resolve("large")), 20_000_000);
        try (WalIndexerRemoteStorageManager hurried = Broker.plugin(worker, "copy.timeout.ms", 500L)) {
            RemoteStorageException failure = assertThrows(RemoteStorageException.class,
                () -> hurried.copyLogSegmentData(large.attempt(), large.data(true)));
            assertTrue(failure.getMessage().contains("DEADLINE_EXCEEDED"), failure.getMessage());
        }
    }

    @Test
    void a_copy_that_is_interrupted_ends_at_once_and_is_cancelled_at_the_worker() throws Exception {
        Broker large = new Broker(Files.createDirectory(folder.resolve("large")), 20_000_000);
        for (boolean whileSending : new boolean[] {true, false}) {
            worker.stopsReading = whileSending;
            worker.hangs = !whileSending;
            int callsBefore = worker.copyCalls.get();
            int cancelledBefore = worker.cancelledCalls.get();
            Broker.Task<?> copy = Broker.inBackground(() ->
                plugin.copyLogSegmentData(large.attempt(), large.data(true)));
            Broker.await("the copy has begun", () -> worker.copyCalls.get() > callsBefore);
            Thread.sleep(200);
            copy.assertInterruptedWithin(Duration.ofSeconds(1));
            Broker.await("the call is cancelled", () -> worker.cancelledCalls.get() == cancelledBefore + 1);
        }
        assertEquals(0, worker.storedCopies());
    }

    @Test
    void lesson_34_whatever_goes_wrong_is_a_remote_storage_exception() {
        assertInstanceOf(RemoteStorageException.class,
            assertThrows(Throwable.class, () -> plugin.copyLogSegmentData(null, broker.data(true))));
        assertInstanceOf(RemoteStorageException.class,
            assertThrows(Throwable.class, () -> plugin.copyLogSegmentData(broker.attempt(), null)));
        WalIndexerRemoteStorageManager unconfigured = new WalIndexerRemoteStorageManager();
        assertInstanceOf(RemoteStorageException.class, assertThrows(Throwable.class,
            () -> unconfigured.copyLogSegmentData(broker.attempt(), broker.data(true))));
        assertInstanceOf(RemoteStorageException.class, Failures.toRemoteStorageException("copy of a:0:0",
            new OutOfMemoryError("scripted")));
    }

    @Test
    void the_message_says_what_failed_where_and_why() {
        worker.failures.add(ScriptedWorker.error(Status.Code.ALREADY_EXISTS, "COPY_DIFFERS", 0));
        RemoteStorageException failure = assertThrows(RemoteStorageException.class,
            () -> plugin.copyLogSegmentData(broker.attempt(), broker.data(true)));
        assertEquals("copy of orders:3:17 failed: ALREADY_EXISTS (COPY_DIFFERS): scripted, worker "
            + worker.address(), failure.getMessage());
        assertEquals(1, worker.copyCalls.get());
    }

    @Test
    void a_copy_goes_on_at_another_worker_under_the_same_name() throws Exception {
        ScriptedWorker.Store store = new ScriptedWorker.Store();
        try (ScriptedWorker first = new ScriptedWorker(store); ScriptedWorker second = new ScriptedWorker(store);
                WalIndexerRemoteStorageManager both = Broker.plugin(Stream.of(first.address(), second.address()))) {
            first.failures.add(ScriptedWorker.error(Status.Code.UNAVAILABLE, "DRAINING", 60_000));
            int copies = 0;
            while (first.copyCalls.get() == 0) {
                both.copyLogSegmentData(broker.attempt(), broker.data(true));
                copies++;
            }
            assertEquals(1, first.copyCalls.get());
            assertEquals(copies, second.copyCalls.get());
            assertEquals(first.headers.get(0), second.headers.get(copies - 1));
            assertEquals(copies, second.storedCopies());
        }
    }

    @Test
    void a_worker_without_memory_is_asked_again_after_the_time_it_names() throws Exception {
        worker.failures.add(ScriptedWorker.error(Status.Code.RESOURCE_EXHAUSTED, "NO_ROOM", 700));
        long start = System.nanoTime();
        plugin.copyLogSegmentData(broker.attempt(), broker.data(true));
        long tookMs = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start);
        assertTrue(tookMs >= 700 && tookMs < 3_000, tookMs + " ms");
        assertEquals(2, worker.copyCalls.get());
    }

    @Test
    void a_wait_that_would_pass_the_deadline_is_not_begun() throws Exception {
        try (WalIndexerRemoteStorageManager hurried = Broker.plugin(worker, "copy.timeout.ms", 5_000L)) {
            worker.failures.add(ScriptedWorker.error(Status.Code.RESOURCE_EXHAUSTED, "NO_ROOM", 60_000));
            long start = System.nanoTime();
            RemoteStorageException failure = assertThrows(RemoteStorageException.class,
                () -> hurried.copyLogSegmentData(broker.attempt(), broker.data(true)));
            assertTrue(failure.getMessage().contains("RESOURCE_EXHAUSTED (NO_ROOM)"), failure.getMessage());
            assertTrue(System.nanoTime() - start < TimeUnit.SECONDS.toNanos(3));
        }
    }

    @Test
    void a_receipt_that_comes_before_all_bytes_is_held_against_all_bytes() throws Exception {
        RemoteLogSegmentMetadata attempt = broker.attempt();
        Optional<CustomMetadata> first = plugin.copyLogSegmentData(attempt, broker.data(true));
        worker.repliesBeforeTheBytes = true;
        assertArrayEquals(first.orElseThrow().value(),
            plugin.copyLogSegmentData(attempt, broker.data(true)).orElseThrow().value());
        // Over a connection of its own: this server never gives back the window of bytes that it did not read.
        plugin.close();
        plugin = Broker.plugin(worker);
        byte[] other = broker.segment.clone();
        other[other.length - 1]++;
        Files.write(broker.log, other);
        assertFails("CRC-32C of the segment", attempt, broker.data(true));
    }

    @Test
    void closing_the_plugin_ends_a_copy_within_a_few_seconds() throws Exception {
        worker.hangs = true;
        Broker.Task<?> copy = Broker.inBackground(() ->
            plugin.copyLogSegmentData(broker.attempt(), broker.data(true)));
        Broker.await("the copy has begun", () -> worker.copyCalls.get() == 1);
        long start = System.nanoTime();
        plugin.close();
        assertInstanceOf(RemoteStorageException.class, copy.failure());
        assertTrue(System.nanoTime() - start < TimeUnit.SECONDS.toNanos(4));
        Broker.await("the copy's thread ends", () -> !copy.isAlive());
    }
}
