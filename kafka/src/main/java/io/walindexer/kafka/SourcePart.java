package io.walindexer.kafka;

import com.google.protobuf.ByteString;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.Channels;
import java.nio.channels.FileChannel;
import java.nio.channels.ReadableByteChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;

/** Bytes of a copy that are read from the broker's disk or memory: the segment, or one attachment. */
final class SourcePart {
    private final String name;
    private final Path file;
    private final ByteBuffer buffer;
    private final long sizeBytes;

    private SourcePart(String name, Path file, ByteBuffer buffer, long sizeBytes) {
        this.name = name;
        this.file = file;
        this.buffer = buffer;
        this.sizeBytes = sizeBytes;
    }

    static SourcePart file(String name, Path file) throws IOException {
        return new SourcePart(name, file, null, Files.size(file));
    }

    static SourcePart buffer(String name, ByteBuffer buffer) {
        return new SourcePart(name, null, buffer, buffer.remaining());
    }

    /** The segment's file, which must have the size that Kafka's metadata say. */
    static SourcePart segment(LogSegmentData data, long sizeBytes) throws IOException {
        SourcePart segment = file("segment", data.logSegment());
        if (segment.sizeBytes != sizeBytes) {
            throw new IOException(data.logSegment() + " has " + segment.sizeBytes + " bytes, Kafka's metadata say "
                + sizeBytes);
        }
        return segment;
    }

    /** The index files, under the names of the attachments. */
    static List<SourcePart> attachments(LogSegmentData data) throws IOException {
        List<SourcePart> parts = new ArrayList<>();
        parts.add(file(Attachments.OFFSET, data.offsetIndex()));
        parts.add(file(Attachments.TIMESTAMP, data.timeIndex()));
        parts.add(file(Attachments.PRODUCER_SNAPSHOT, data.producerSnapshotIndex()));
        if (data.transactionIndex().isPresent()) {
            parts.add(file(Attachments.TRANSACTION, data.transactionIndex().get()));
        }
        parts.add(buffer(Attachments.LEADER_EPOCH, data.leaderEpochIndex()));
        return parts;
    }

    String name() {
        return name;
    }

    long sizeBytes() {
        return sizeBytes;
    }

    /** Opens the bytes from their beginning. An interruption of the thread ends a read of a file. */
    ReadableByteChannel open() throws IOException {
        if (file != null) {
            return FileChannel.open(file, StandardOpenOption.READ);
        }
        return Channels.newChannel(ByteString.copyFrom(buffer.duplicate()).newInput());
    }

    /** Fails if the file no longer has the size that was announced. */
    void checkSizeIsUnchanged() throws IOException {
        if (file != null && Files.size(file) != sizeBytes) {
            throw new IOException(file + " had " + sizeBytes + " bytes, and has " + Files.size(file)
                + " after they were read");
        }
    }
}
