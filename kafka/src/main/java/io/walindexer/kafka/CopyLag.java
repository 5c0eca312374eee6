package io.walindexer.kafka;

import java.io.IOException;
import java.nio.channels.ClosedByInterruptException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.LongSupplier;
import java.util.function.ToLongFunction;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;

/**
 * What waits on this broker's disks to be copied, by bytes and by age, for each partition that Kafka had copied here
 * lately. Kafka's own lag is a sum for each topic, and has no age. Each copy looks at its partition's directory when
 * it begins and when it ends.
 */
final class CopyLag {
    /** A broker has no more partitions than this, by Kafka's own advice. */
    static final int PARTITIONS_MAX = 4_000;
    /** Kafka tries a failed copy again within a minute. Without any copy for this long, the partition is not led here. */
    static final long FORGOTTEN_AFTER_MS = 10 * 60 * 1_000;

    /** Where the values of one partition are published. */
    interface Publisher {
        void add(TopicPartition partition, Map<String, LongSupplier> values);

        void remove(TopicPartition partition);
    }

    /** A copy of a segment. */
    interface Copy<T> {
        T run() throws Exception;
    }

    private final Publisher publisher;
    private final LongSupplier clockMs;
    private final Map<TopicPartition, Partition> partitions = new HashMap<>();
    private boolean isClosed;

    CopyLag(Publisher publisher, LongSupplier clockMs) {
        this.publisher = publisher;
        this.clockMs = clockMs;
    }

    /** Runs a copy, and notes what waits before and after it. */
    <T> T during(RemoteLogSegmentMetadata metadata, LogSegmentData data, Copy<T> copy) throws Exception {
        TopicPartition partition = metadata.topicIdPartition().topicPartition();
        long next = metadata.startOffset();
        note(partition, data, next, true);
        try {
            T copied = copy.run();
            next = metadata.endOffset() + 1;
            return copied;
        } catch (InterruptedException | ClosedByInterruptException e) {
            // Kafka does this when another broker leads the partition.
            next = -1;
            throw e;
        } finally {
            if (next < 0) {
                remove(partition);
            } else {
                note(partition, data, next, false);
            }
        }
    }

    /** Removes partitions that are not copied here any more. */
    synchronized void removeExpired() {
        long end = clockMs.getAsLong() - FORGOTTEN_AFTER_MS;
        List<TopicPartition> expired = new ArrayList<>();
        partitions.forEach((partition, known) -> {
            if (!known.isCopying && known.notedAtMs <= end) {
                expired.add(partition);
            }
        });
        expired.forEach(this::remove);
    }

    synchronized void close() {
        isClosed = true;
        List.copyOf(partitions.keySet()).forEach(this::remove);
    }

    /** Adds the values of all partitions together. */
    void addTo(Map<String, LongSupplier> values) {
        values.put("copy-lag-partitions", this::count);
        values.put("copy-lag-bytes", () -> sum(known -> known.waiting.bytes()));
        values.put("copy-lag-segments", () -> sum(known -> known.waiting.segments()));
        values.put("copy-lag-age-ms-max", this::oldestMs);
    }

    private void note(TopicPartition partition, LogSegmentData data, long nextOffset, boolean isCopying) {
        Optional<WaitingSegments> waiting = Optional.empty();
        try {
            waiting = Optional.of(WaitingSegments.from(data.logSegment(), nextOffset));
        } catch (IOException | RuntimeException e) {
            // A topic that is deleted takes its directory along. Whatever else it is, no copy fails for a metric.
        }
        put(partition, waiting, isCopying);
    }

    private synchronized void put(TopicPartition partition, Optional<WaitingSegments> waiting, boolean isCopying) {
        if (waiting.isEmpty() || isClosed) {
            remove(partition);
            return;
        }
        Partition known = partitions.get(partition);
        if (known == null) {
            if (partitions.size() >= PARTITIONS_MAX) {
                partitions.entrySet().stream().min(Comparator.comparingLong(one -> one.getValue().notedAtMs))
                    .map(Map.Entry::getKey).ifPresent(this::remove);
            }
            Partition added = new Partition();
            known = added;
            partitions.put(partition, added);
            Map<String, LongSupplier> values = new TreeMap<>();
            values.put("copy-lag-bytes", () -> of(added, one -> one.waiting.bytes()));
            values.put("copy-lag-segments", () -> of(added, one -> one.waiting.segments()));
            values.put("copy-lag-age-ms", () -> of(added, this::ageMs));
            publisher.add(partition, values);
        }
        known.waiting = waiting.get();
        known.isCopying = isCopying;
        known.notedAtMs = clockMs.getAsLong();
    }

    private synchronized void remove(TopicPartition partition) {
        if (partitions.remove(partition) != null) {
            publisher.remove(partition);
        }
    }

    private synchronized long of(Partition known, ToLongFunction<Partition> value) {
        return value.applyAsLong(known);
    }

    private synchronized long count() {
        return partitions.size();
    }

    private synchronized long sum(ToLongFunction<Partition> value) {
        return partitions.values().stream().mapToLong(value).sum();
    }

    private synchronized long oldestMs() {
        return partitions.values().stream().mapToLong(this::ageMs).max().orElse(0);
    }

    private long ageMs(Partition known) {
        return known.waiting.segments() == 0 ? 0 : Math.max(0, clockMs.getAsLong() - known.waiting.sealedAtMs());
    }

    /** What is known of a partition. */
    private static final class Partition {
        WaitingSegments waiting;
        boolean isCopying;
        long notedAtMs;
    }
}
