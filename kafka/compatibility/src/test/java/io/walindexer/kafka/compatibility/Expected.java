package io.walindexer.kafka.compatibility;

import java.util.EnumSet;
import java.util.Set;
import org.apache.kafka.tiered.storage.TieredStorageTestHarness;
import org.junit.jupiter.api.extension.ExtensionContext;

/** What a test must have had the plugin do. Otherwise it proves nothing about the plugin. */
enum Expected {
    COPIES {
        @Override
        boolean isIn(Operations operations) {
            return operations.copies.get() > 0;
        }
    },
    READS {
        @Override
        boolean isIn(Operations operations) {
            return operations.fetches.get() > 0 && operations.indexFetches.get() > 0 && operations.bytes.get() > 0;
        }
    },
    DELETIONS {
        @Override
        boolean isIn(Operations operations) {
            return operations.deletions.get() > 0;
        }
    };

    private static final Set<String> DELETING = Set.of("DeleteSegmentsByRetentionSizeTest",
        "DeleteSegmentsByRetentionTimeTest", "DeleteSegmentsDueToLogStartOffsetBreachTest", "DeleteTopicTest",
        "DisableRemoteLogOnTopicTest", "ListOffsetsTest");

    // The others of TransactionsWithTieredStoreTest do not wait until a segment is copied.
    private static final Set<String> TRANSACTIONS_FROM_REMOTE = Set.of("testBasicTransactions",
        "testDelayedFetchIncludesAbortedTransaction", "testSendOffsetsWithGroupMetadata");

    abstract boolean isIn(Operations operations);

    static Set<Expected> of(ExtensionContext context) {
        Class<?> test = context.getRequiredTestClass();
        if (TieredStorageTestHarness.class.isAssignableFrom(test)) {
            return DELETING.contains(test.getSimpleName()) ? EnumSet.allOf(Expected.class) : EnumSet.of(COPIES, READS);
        }
        if (GetOffsetShellOverPluginTest.class.isAssignableFrom(test)) {
            return EnumSet.of(COPIES);
        }
        return TRANSACTIONS_FROM_REMOTE.contains(context.getRequiredTestMethod().getName())
            ? EnumSet.of(COPIES, READS) : EnumSet.noneOf(Expected.class);
    }
}
