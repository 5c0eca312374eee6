package io.walindexer.kafka.compatibility;

import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicLong;

/** What the brokers of one test have had the plugin do, and where it did not do what Kafka's own storage did. */
final class Operations {
    private static volatile Operations current = new Operations();

    final AtomicLong copies = new AtomicLong();
    final AtomicLong fetches = new AtomicLong();
    final AtomicLong indexFetches = new AtomicLong();
    final AtomicLong deletions = new AtomicLong();
    /** The bytes of segments and indexes that came from the plugin, were compared, and went to a broker. */
    final AtomicLong bytes = new AtomicLong();
    private final Set<Integer> brokers = new ConcurrentSkipListSet<>();
    private final List<String> differences = new CopyOnWriteArrayList<>();

    /** Those of the test that runs now. */
    static Operations current() {
        return current;
    }

    /** Starts with none, for a test that begins. */
    static Operations begin() {
        Operations begun = new Operations();
        current = begun;
        return begun;
    }

    void usedBy(int brokerId) {
        brokers.add(brokerId);
    }

    void differs(String difference) {
        differences.add(difference);
    }

    /** The ids of the brokers that use the plugin. */
    Set<Integer> brokers() {
        return brokers;
    }

    List<String> differences() {
        return differences;
    }

    @Override
    public String toString() {
        return copies + " copies, " + fetches + " fetches, " + indexFetches + " fetches of indexes, " + deletions
            + " deletions, " + bytes + " bytes read";
    }
}
