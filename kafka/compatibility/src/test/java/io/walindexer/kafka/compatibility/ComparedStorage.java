package io.walindexer.kafka.compatibility;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Map;
import java.util.Optional;
import org.apache.kafka.server.log.remote.storage.ClassLoaderAwareRemoteStorageManager;
import org.apache.kafka.server.log.remote.storage.LocalTieredStorage;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata.CustomMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteResourceNotFoundException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager;

/**
 * The storage of the brokers in Kafka's tests: the plugin, and beside it the storage that these tests are written for.
 * Brokers get what the plugin returns. The tests look at {@link LocalTieredStorage}, which is told everything after
 * the plugin has done it, and which says what the plugin should return. It is final, so this class extends the one
 * other class in which the tests look for it.
 */
public final class ComparedStorage extends ClassLoaderAwareRemoteStorageManager {
    private final RemoteStorageManager plugin;
    private final String worker;
    private final Operations operations = Operations.current();

    /** Called by Kafka. */
    public ComparedStorage() {
        this(PluginJar.load(), WorkerProcess.shared().address());
    }

    ComparedStorage(RemoteStorageManager plugin, String worker) {
        super(new LocalTieredStorage(), ComparedStorage.class.getClassLoader());
        this.plugin = plugin;
        this.worker = worker;
    }

    /** The keys are those of {@link LocalTieredStorage}. */
    @Override
    public void configure(Map<String, ?> configs) {
        super.configure(configs);
        Integer brokerId = (Integer) configs.get(LocalTieredStorage.BROKER_ID);
        plugin.configure(Map.of("broker.id", brokerId, "workers", worker));
        operations.usedBy(brokerId);
    }

    @Override
    public Optional<CustomMetadata> copyLogSegmentData(RemoteLogSegmentMetadata metadata, LogSegmentData data)
            throws RemoteStorageException {
        Optional<CustomMetadata> custom;
        try {
            custom = plugin.copyLogSegmentData(metadata, data);
        } catch (RemoteStorageException e) {
            throw noted("the copy of " + metadata.remoteLogSegmentId(), e);
        }
        operations.copies.incrementAndGet();
        super.copyLogSegmentData(metadata, data);
        return custom;
    }

    @Override
    public InputStream fetchLogSegment(RemoteLogSegmentMetadata metadata, int start) throws RemoteStorageException {
        operations.fetches.incrementAndGet();
        return compared(metadata.remoteLogSegmentId() + " from " + start,
            () -> plugin.fetchLogSegment(metadata, start), () -> super.fetchLogSegment(metadata, start));
    }

    @Override
    public InputStream fetchLogSegment(RemoteLogSegmentMetadata metadata, int start, int end)
            throws RemoteStorageException {
        operations.fetches.incrementAndGet();
        return compared(metadata.remoteLogSegmentId() + " from " + start + " to " + end,
            () -> plugin.fetchLogSegment(metadata, start, end), () -> {
                // Kafka's storage ignores the end.
                try (InputStream local = super.fetchLogSegment(metadata, start, end)) {
                    return new ByteArrayInputStream(local.readNBytes(end - start + 1));
                }
            });
    }

    @Override
    public InputStream fetchIndex(RemoteLogSegmentMetadata metadata, IndexType type) throws RemoteStorageException {
        operations.indexFetches.incrementAndGet();
        return compared("the " + type + " index of " + metadata.remoteLogSegmentId(),
            () -> plugin.fetchIndex(metadata, type), () -> super.fetchIndex(metadata, type));
    }

    @Override
    public void deleteLogSegmentData(RemoteLogSegmentMetadata metadata) throws RemoteStorageException {
        try {
            plugin.deleteLogSegmentData(metadata);
        } catch (RemoteStorageException e) {
            throw noted("the deletion of " + metadata.remoteLogSegmentId(), e);
        }
        expectDeleted(metadata);
        operations.deletions.incrementAndGet();
        super.deleteLogSegmentData(metadata);
    }

    @Override
    public void close() throws IOException {
        try (plugin) {
            super.close();
        }
    }

    private interface Fetch {
        InputStream open() throws RemoteStorageException, IOException;
    }

    private InputStream compared(String what, Fetch ofPlugin, Fetch ofKafka) throws RemoteStorageException {
        InputStream expected;
        try {
            expected = ofKafka.open();
        } catch (RemoteResourceNotFoundException absent) {
            throw notFound(what, ofPlugin);
        } catch (IOException e) {
            throw new RemoteStorageException(e);
        }
        try {
            return new ComparedStream(what, ofPlugin.open(), expected, operations);
        } catch (RemoteStorageException e) {
            throw noted(what, e);
        } catch (IOException e) {
            throw new RemoteStorageException(e);
        }
    }

    /** What the plugin throws for something that is not there. */
    private RemoteStorageException notFound(String what, Fetch ofPlugin) {
        try (InputStream found = ofPlugin.open()) {
            return noted(what, new RemoteStorageException("it is there, with " + found.readAllBytes().length
                + " bytes, though it should not be"));
        } catch (RemoteResourceNotFoundException asExpected) {
            return asExpected;
        } catch (RemoteStorageException e) {
            return noted(what, e);
        } catch (IOException e) {
            return new RemoteStorageException(e);
        }
    }

    // With the custom metadata the worker finds a copy without looking whether it is deleted.
    private void expectDeleted(RemoteLogSegmentMetadata metadata) throws RemoteStorageException {
        RemoteLogSegmentMetadata named = new RemoteLogSegmentMetadata(metadata.remoteLogSegmentId(),
            metadata.startOffset(), metadata.endOffset(), metadata.maxTimestampMs(), metadata.brokerId(),
            metadata.eventTimestampMs(), metadata.segmentSizeInBytes(), Optional.empty(), metadata.state(),
            metadata.segmentLeaderEpochs());
        RemoteStorageException failure = notFound(metadata.remoteLogSegmentId() + " after its deletion",
            () -> plugin.fetchLogSegment(named, 0));
        if (!(failure instanceof RemoteResourceNotFoundException)) {
            throw failure;
        }
    }

    // Kafka tries again what failed, so that its tests may pass all the same. A broker that stops interrupts calls.
    private RemoteStorageException noted(String what, RemoteStorageException failure) {
        if (!Thread.currentThread().isInterrupted()) {
            operations.differs(what + ": " + failure);
        }
        return failure;
    }
}
