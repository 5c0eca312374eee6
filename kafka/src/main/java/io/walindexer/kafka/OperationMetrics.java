package io.walindexer.kafka;

import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.LongAdder;
import java.util.function.LongSupplier;

/** What one kind of operation did since the broker started. */
final class OperationMetrics {
    private final LongAdder count = new LongAdder();
    private final LongAdder errors = new LongAdder();
    private final LongAdder nanos = new LongAdder();
    private final LongAdder bytes = new LongAdder();

    void ended(boolean ok, long tookNanos) {
        count.increment();
        nanos.add(tookNanos);
        if (!ok) {
            errors.increment();
        }
    }

    void moved(long byteCount) {
        bytes.add(byteCount);
    }

    /** Counts an error of an operation that had ended well, such as a read of an opened segment. */
    void failed() {
        errors.increment();
    }

    /** Adds the values to read, under names such as {@code copy-errors-total}. */
    void addTo(Map<String, LongSupplier> values, String operation, boolean movesBytes) {
        values.put(operation + "-total", count::sum);
        values.put(operation + "-errors-total", errors::sum);
        values.put(operation + "-time-ms-total", () -> TimeUnit.NANOSECONDS.toMillis(nanos.sum()));
        if (movesBytes) {
            values.put(operation + "-bytes-total", bytes::sum);
        }
    }
}
