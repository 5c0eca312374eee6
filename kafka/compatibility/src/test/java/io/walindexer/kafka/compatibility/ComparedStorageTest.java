package io.walindexer.kafka.compatibility;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;
import java.util.Optional;
import java.util.function.UnaryOperator;
import org.apache.kafka.common.TopicIdPartition;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentId;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata.CustomMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteResourceNotFoundException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager.IndexType;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A plugin that does anything wrong is found out. */
class ComparedStorageTest {
    private static final byte[] SEGMENT = "the bytes of a segment".getBytes();

    @TempDir
    Path folder;

    private final FakePlugin plugin = new FakePlugin();
    private final RemoteLogSegmentMetadata metadata = new RemoteLogSegmentMetadata(
        new RemoteLogSegmentId(new TopicIdPartition(Uuid.randomUuid(), new TopicPartition("orders", 3)),
            Uuid.randomUuid()), 17, 99, 1_000, 1, 2_000, SEGMENT.length, Map.of(0, 17L));
    private Operations operations;
    private ComparedStorage storage;

    @BeforeEach
    void copy() throws Exception {
        operations = Operations.begin();
        storage = new ComparedStorage(plugin, "here:1");
        storage.configure(Map.of("broker.id", 1, "dir", folder.resolve("remote").toString()));
        Path file = Files.write(folder.resolve("file"), SEGMENT);
        LogSegmentData data = new LogSegmentData(file, file, file, Optional.empty(), file, ByteBuffer.wrap(SEGMENT));
        assertArrayEquals(new byte[] {7}, storage.copyLogSegmentData(metadata, data).orElseThrow().value());
    }

    @Test
    void what_is_equal_is_handed_on_and_counted() throws Exception {
        assertArrayEquals(SEGMENT, storage.fetchLogSegment(metadata, 0).readAllBytes());
        assertArrayEquals(Arrays.copyOfRange(SEGMENT, 4, 10), storage.fetchLogSegment(metadata, 4, 9).readAllBytes());
        assertArrayEquals(SEGMENT, storage.fetchIndex(metadata, IndexType.OFFSET).readAllBytes());
        storage.deleteLogSegmentData(metadata);
        assertEquals("1 copies, 2 fetches, 1 fetches of indexes, 1 deletions, " + (2 * SEGMENT.length + 6)
            + " bytes read", operations.toString());
        assertEquals("[]", operations.differences().toString());
        assertEquals("[1]", operations.brokers().toString());
    }

    @Test
    void another_byte_is_noted() throws Exception {
        plugin.returned = bytes -> {
            bytes[3]++;
            return bytes;
        };
        check("has other bytes", () -> storage.fetchLogSegment(metadata, 0).readAllBytes());
    }

    @Test
    void a_byte_too_few_is_noted() throws Exception {
        plugin.returned = bytes -> Arrays.copyOf(bytes, bytes.length - 1);
        check("ends too early", () -> storage.fetchIndex(metadata, IndexType.TIMESTAMP).readAllBytes());
    }

    @Test
    void a_byte_too_many_is_noted() throws Exception {
        plugin.returned = bytes -> Arrays.copyOf(bytes, bytes.length + 1);
        check("has other bytes", () -> storage.fetchLogSegment(metadata, 0).readAllBytes());
    }

    @Test
    void an_index_that_should_be_there_is_noted() throws Exception {
        plugin.stored = null;
        check("RemoteResourceNotFoundException", () -> storage.fetchIndex(metadata, IndexType.LEADER_EPOCH));
    }

    @Test
    void an_index_that_should_not_be_there_is_noted() throws Exception {
        check("though it should not be", () -> storage.fetchIndex(metadata, IndexType.TRANSACTION));
    }

    @Test
    void an_index_that_is_not_there_is_not_noted() throws Exception {
        plugin.stored = null;
        assertThrows(RemoteResourceNotFoundException.class, () -> storage.fetchIndex(metadata, IndexType.TRANSACTION));
        assertEquals("[]", operations.differences().toString());
    }

    @Test
    void a_segment_that_is_still_there_after_its_deletion_is_noted() throws Exception {
        plugin.deletes = false;
        check("though it should not be", () -> storage.deleteLogSegmentData(metadata));
    }

    private interface Call {
        void run() throws IOException, RemoteStorageException;
    }

    private void check(String difference, Call call) {
        assertThrows(Exception.class, call::run);
        assertEquals(1, operations.differences().size(), operations.differences().toString());
        assertEquals(true, operations.differences().get(0).contains(difference), operations.differences().toString());
    }

    /** Keeps one segment in memory, and takes its bytes for those of each index. */
    private static final class FakePlugin implements RemoteStorageManager {
        private byte[] stored;
        private boolean deletes = true;
        private UnaryOperator<byte[]> returned = bytes -> bytes;

        @Override
        public void configure(Map<String, ?> configs) {
            assertEquals(Map.of("broker.id", 1, "workers", "here:1"), configs);
        }

        @Override
        public Optional<CustomMetadata> copyLogSegmentData(RemoteLogSegmentMetadata metadata, LogSegmentData data) {
            stored = SEGMENT;
            return Optional.of(new CustomMetadata(new byte[] {7}));
        }

        @Override
        public InputStream fetchLogSegment(RemoteLogSegmentMetadata metadata, int start)
                throws RemoteStorageException {
            return fetchLogSegment(metadata, start, SEGMENT.length - 1);
        }

        @Override
        public InputStream fetchLogSegment(RemoteLogSegmentMetadata metadata, int start, int end)
                throws RemoteStorageException {
            if (stored == null) {
                throw new RemoteResourceNotFoundException("none");
            }
            return new ByteArrayInputStream(returned.apply(Arrays.copyOfRange(stored, start, end + 1)));
        }

        @Override
        public InputStream fetchIndex(RemoteLogSegmentMetadata metadata, IndexType type)
                throws RemoteStorageException {
            return fetchLogSegment(metadata, 0);
        }

        @Override
        public void deleteLogSegmentData(RemoteLogSegmentMetadata metadata) {
            if (deletes) {
                stored = null;
            }
        }

        @Override
        public void close() {
        }
    }
}
