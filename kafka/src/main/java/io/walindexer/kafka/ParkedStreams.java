package io.walindexer.kafka;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.LongAdder;

/**
 * The streams that were closed before their end. A consumer that reads on makes Kafka open the segment again where
 * the last fetch stopped, or a little before; then it gets the stream that is kept here. A stream has one reader:
 * taking it removes it. The number of streams and the time without a reader are bounded.
 */
final class ParkedStreams {
    private final int max;
    private final long idleNanosMax;
    private final LongAdder hits = new LongAdder();
    private final LongAdder misses = new LongAdder();
    // Guarded by this. The oldest is first.
    private final Deque<Parked> parked = new ArrayDeque<>();
    private boolean closed;

    ParkedStreams(int max, long idleMsMax) {
        this.max = max;
        this.idleNanosMax = TimeUnit.MILLISECONDS.toNanos(idleMsMax);
    }

    /** A stream of this copy that can go on at the position. Null if there is none. */
    SegmentStream take(String copyId, long position) {
        removeExpired();
        Parked nearest = null;
        synchronized (this) {
            for (Parked candidate : parked) {
                if (candidate.copyId.equals(copyId) && candidate.stream.isUsable()
                        && candidate.stream.covers(position)
                        && (nearest == null || candidate.distance(position) < nearest.distance(position))) {
                    nearest = candidate;
                }
            }
            if (nearest != null) {
                parked.remove(nearest);
            }
        }
        (nearest == null ? misses : hits).increment();
        if (nearest == null) {
            return null;
        }
        nearest.stream.seek(position);
        return nearest.stream;
    }

    /** Keeps a stream, or closes it if it is of no use. If there are too many, the oldest is closed. */
    void park(String copyId, SegmentStream stream) {
        SegmentStream surplus = null;
        synchronized (this) {
            if (closed || max == 0 || !stream.isUsable()) {
                surplus = stream;
            } else {
                parked.addLast(new Parked(copyId, stream, System.nanoTime()));
                if (parked.size() > max) {
                    surplus = parked.removeFirst().stream;
                }
            }
        }
        if (surplus != null) {
            surplus.close();
        }
    }

    /** Closes the streams of a copy that is deleted. */
    void remove(String copyId) {
        removeIf(candidate -> candidate.copyId.equals(copyId));
    }

    /** Closes the streams that nobody came for in time, and those that failed. */
    void removeExpired() {
        long now = System.nanoTime();
        removeIf(candidate -> now - candidate.parkedNanos >= idleNanosMax || !candidate.stream.isUsable());
    }

    synchronized int size() {
        return parked.size();
    }

    /** The bytes of messages that the streams keep, without what gRPC buffers for them. */
    synchronized long keptBytes() {
        return parked.stream().mapToLong(entry -> entry.stream.keptBytes()).sum();
    }

    long hits() {
        return hits.sum();
    }

    long misses() {
        return misses.sum();
    }

    void close() {
        synchronized (this) {
            closed = true;
        }
        removeIf(candidate -> true);
    }

    private void removeIf(java.util.function.Predicate<Parked> condition) {
        List<Parked> removed = new ArrayList<>();
        synchronized (this) {
            for (Iterator<Parked> all = parked.iterator(); all.hasNext(); ) {
                Parked candidate = all.next();
                if (condition.test(candidate)) {
                    removed.add(candidate);
                    all.remove();
                }
            }
        }
        removed.forEach(candidate -> candidate.stream.close());
    }

    private static final class Parked {
        private final String copyId;
        private final SegmentStream stream;
        private final long parkedNanos;

        Parked(String copyId, SegmentStream stream, long parkedNanos) {
            this.copyId = copyId;
            this.stream = stream;
            this.parkedNanos = parkedNanos;
        }

        long distance(long position) {
            return Math.abs(stream.position() - position);
        }
    }
}
