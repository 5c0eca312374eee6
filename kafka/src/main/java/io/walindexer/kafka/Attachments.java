package io.walindexer.kafka;

import org.apache.kafka.server.log.remote.storage.RemoteStorageManager.IndexType;

/** The names under which the index files of a segment are stored beside it. */
final class Attachments {
    static final String OFFSET = "offset";
    static final String TIMESTAMP = "timestamp";
    static final String PRODUCER_SNAPSHOT = "producer_snapshot";
    static final String TRANSACTION = "transaction";
    static final String LEADER_EPOCH = "leader_epoch";

    private Attachments() {
    }

    static String name(IndexType type) {
        switch (type) {
            case OFFSET:
                return OFFSET;
            case TIMESTAMP:
                return TIMESTAMP;
            case PRODUCER_SNAPSHOT:
                return PRODUCER_SNAPSHOT;
            case TRANSACTION:
                return TRANSACTION;
            case LEADER_EPOCH:
                return LEADER_EPOCH;
            default:
                throw new IllegalArgumentException("this release of the plugin does not know the index " + type);
        }
    }
}
