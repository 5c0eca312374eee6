package io.walindexer.kafka;

import com.google.protobuf.ByteString;
import io.walindexer.kafka.v1.Archive.SegmentName;
import java.util.Optional;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata.CustomMetadata;

/** A remote segment of Kafka, as the workers name it. */
final class Segment {
    // The first byte of the custom metadata. What follows it is the worker's locator.
    private static final byte CUSTOM_METADATA_VERSION = 1;
    private static final int LOCATOR_BYTES_MAX = 64;

    private final RemoteLogSegmentMetadata metadata;
    private final SegmentName name;

    Segment(RemoteLogSegmentMetadata metadata) {
        this.metadata = metadata;
        this.name = SegmentName.newBuilder()
            .setTopic(metadata.topicIdPartition().topic())
            .setPartition(metadata.topicIdPartition().partition())
            .setLogId(metadata.topicIdPartition().topicId().toString())
            .setBaseOffset(metadata.startOffset())
            .setCopyId(copyId())
            .build();
    }

    SegmentName name() {
        return name;
    }

    /** The segment's uuid, which Kafka draws anew for each attempt to copy. */
    String copyId() {
        return metadata.remoteLogSegmentId().id().toString();
    }

    long sizeBytes() {
        return metadata.segmentSizeInBytes();
    }

    /** The next segment's base offset minus one; not always the offset of a record. */
    long lastOffset() {
        return metadata.endOffset();
    }

    /** The worker's locator, if Kafka has it. It does not after a failed copy. */
    ByteString locator() {
        Optional<byte[]> custom = metadata.customMetadata().map(CustomMetadata::value);
        if (custom.isEmpty() || custom.get().length == 0 || custom.get()[0] != CUSTOM_METADATA_VERSION) {
            return ByteString.EMPTY;
        }
        return ByteString.copyFrom(custom.get(), 1, custom.get().length - 1);
    }

    /** The custom metadata of a copy, at most 65 bytes. Kafka allows 128 by default. */
    static CustomMetadata customMetadata(ByteString locator) throws ReceiptException {
        if (locator.size() > LOCATOR_BYTES_MAX) {
            throw new ReceiptException("the locator has " + locator.size() + " bytes, more than "
                + LOCATOR_BYTES_MAX);
        }
        byte[] value = new byte[1 + locator.size()];
        value[0] = CUSTOM_METADATA_VERSION;
        locator.copyTo(value, 1);
        return new CustomMetadata(value);
    }

    /** Topic, partition and base offset, for logs. */
    @Override
    public String toString() {
        TopicPartition partition = metadata.topicIdPartition().topicPartition();
        return partition.topic() + ":" + partition.partition() + ":" + metadata.startOffset();
    }
}
