package io.walindexer.kafka;

import java.io.InputStream;
import java.util.Collections;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.BiFunction;
import java.util.function.LongSupplier;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata.CustomMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager;

/**
 * Kafka's remote storage in wal-indexer's workers. It moves bytes and keeps no state: Kafka's metadata are the
 * authority on what exists, and the workers store it. Every error is a {@link RemoteStorageException}, because
 * Kafka does not clean up after any other.
 */
public class WalIndexerRemoteStorageManager implements RemoteStorageManager {
    private final OperationMetrics copies = new OperationMetrics();
    private final OperationMetrics fetches = new OperationMetrics();
    private final OperationMetrics indexFetches = new OperationMetrics();
    private final OperationMetrics deletions = new OperationMetrics();
    private volatile Connection connection;
    private volatile String mbean;

    /** Called by Kafka, which names this class in {@code remote.log.storage.manager.class.name}. */
    public WalIndexerRemoteStorageManager() {
    }

    @Override
    public void configure(Map<String, ?> configs) {
        PluginConfig config = PluginConfig.parse(configs);
        connection = Connection.open(config);
        mbean = PluginMBean.name(config.brokerId());
        PluginMBean.register(mbean, metrics());
    }

    @Override
    public Optional<CustomMetadata> copyLogSegmentData(RemoteLogSegmentMetadata metadata, LogSegmentData data)
            throws RemoteStorageException {
        return run("copy", metadata, copies, Failures::ofCopy, (client, segment) ->
            connection.copyLag().during(metadata, data, () -> Optional.of(client.copy(segment, data, copies))));
    }

    @Override
    public InputStream fetchLogSegment(RemoteLogSegmentMetadata metadata, int startPosition)
            throws RemoteStorageException {
        return run("fetch", metadata, fetches, Failures::toRemoteStorageException, (client, segment) ->
            client.fetch(segment, startPosition, null, fetches));
    }

    /** {@code endPosition} is inclusive. */
    @Override
    public InputStream fetchLogSegment(RemoteLogSegmentMetadata metadata, int startPosition, int endPosition)
            throws RemoteStorageException {
        return run("fetch", metadata, fetches, Failures::toRemoteStorageException, (client, segment) ->
            client.fetch(segment, startPosition, endPosition + 1L, fetches));
    }

    @Override
    public InputStream fetchIndex(RemoteLogSegmentMetadata metadata, IndexType indexType)
            throws RemoteStorageException {
        return run("fetch of the " + indexType + " index", metadata, indexFetches, Failures::toRemoteStorageException,
            (client, segment) -> client.fetchIndex(segment, indexType));
    }

    @Override
    public void deleteLogSegmentData(RemoteLogSegmentMetadata metadata) throws RemoteStorageException {
        run("deletion", metadata, deletions, Failures::toRemoteStorageException, (client, segment) -> {
            client.delete(segment);
            return null;
        });
    }

    @Override
    public void close() {
        Connection open = connection;
        if (open != null) {
            PluginMBean.unregister(mbean);
            open.close();
        }
    }

    /** The values of the metrics by name, sorted. */
    Map<String, LongSupplier> metrics() {
        Map<String, LongSupplier> values = new TreeMap<>();
        copies.addTo(values, "copy", true);
        fetches.addTo(values, "fetch", true);
        indexFetches.addTo(values, "index-fetch", false);
        deletions.addTo(values, "delete", false);
        connection.copyLag().addTo(values);
        ParkedStreams parked = connection.parked();
        values.put("parked-streams", parked::size);
        values.put("parked-bytes", parked::keptBytes);
        values.put("parked-hits-total", parked::hits);
        values.put("parked-misses-total", parked::misses);
        return Collections.unmodifiableMap(values);
    }

    /** What is open; null before {@link #configure}. */
    Connection connection() {
        return connection;
    }

    private interface Operation<T> {
        T on(ArchiveClient client, Segment segment) throws Exception;
    }

    // Kafka logs what is thrown here, so it is not logged twice.
    private <T> T run(String verb, RemoteLogSegmentMetadata metadata, OperationMetrics metrics,
            BiFunction<String, Throwable, RemoteStorageException> toException, Operation<T> operation)
            throws RemoteStorageException {
        long start = System.nanoTime();
        boolean ok = false;
        try {
            T result = operation.on(connection.client(), new Segment(metadata));
            ok = true;
            return result;
        } catch (Throwable e) {
            throw toException.apply(verb + " of " + segmentName(metadata), e);
        } finally {
            metrics.ended(ok, System.nanoTime() - start);
        }
    }

    private static String segmentName(RemoteLogSegmentMetadata metadata) {
        return metadata == null ? "null" : metadata.topicIdPartition().topicPartition().topic() + ":"
            + metadata.topicIdPartition().topicPartition().partition() + ":" + metadata.startOffset();
    }
}
