package io.walindexer.kafka;

import com.google.protobuf.UnsafeByteOperations;
import io.grpc.Deadline;
import io.grpc.Status;
import io.walindexer.kafka.v1.Archive.Attachment;
import io.walindexer.kafka.v1.Archive.CopyHeader;
import io.walindexer.kafka.v1.Archive.CopySegmentRequest;
import io.walindexer.kafka.v1.Archive.CopySegmentResponse;
import io.walindexer.kafka.v1.Indexer.SegmentFormat;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ReadableByteChannel;
import java.util.ArrayList;
import java.util.List;
import java.util.zip.CRC32C;

/** One attempt to copy a segment: sends it and its attachments, and returns the receipt that fits them. */
final class SegmentCopy {
    // Small enough that the JVM does not treat an array of it as a large object.
    private static final int CHUNK_BYTES = 256 << 10;

    private final Segment segment;
    private final SourcePart source;
    private final List<SourcePart> attachments;
    private final Deadline deadline;

    SegmentCopy(Segment segment, SourcePart source, List<SourcePart> attachments, Deadline deadline) {
        this.segment = segment;
        this.source = source;
        this.attachments = attachments;
        this.deadline = deadline;
    }

    CopySegmentResponse send(Worker worker)
            throws WorkerException, InterruptedException, IOException, ReceiptException {
        try (WorkerCall<CopySegmentRequest, CopySegmentResponse> call =
                worker.start(ArchiveMethods.COPY_SEGMENT, deadline, deadline)) {
            if (call.awaitSendable(deadline)) {
                call.send(CopySegmentRequest.newBuilder().setHeader(header()).build());
            }
            SentPart sentSegment = send(call, source);
            List<SentPart> sentAttachments = new ArrayList<>();
            for (SourcePart attachment : attachments) {
                sentAttachments.add(send(call, attachment));
            }
            call.halfClose();
            CopySegmentResponse response = call.next(deadline);
            if (response == null) {
                throw call.error(Status.Code.INTERNAL, "the worker ended the copy without a receipt");
            }
            call.awaitEnd(deadline);
            Receipt.check(response, segment, sentSegment, sentAttachments);
            return response;
        }
    }

    private CopyHeader header() {
        CopyHeader.Builder header = CopyHeader.newBuilder()
            .setName(segment.name())
            .setSegmentId(segment.toString())
            .setFormat(SegmentFormat.SEGMENT_FORMAT_KAFKA_LOG)
            .setSizeBytes(source.sizeBytes())
            .setLastOffset(segment.lastOffset());
        for (SourcePart attachment : attachments) {
            header.addAttachments(Attachment.newBuilder()
                .setName(attachment.name()).setSizeBytes(attachment.sizeBytes()));
        }
        return header.build();
    }

    // A worker that already has this copy may reply before it has read everything. Then the bytes are only
    // read, because the receipt is compared with them.
    private SentPart send(WorkerCall<CopySegmentRequest, CopySegmentResponse> call, SourcePart part)
            throws WorkerException, InterruptedException, IOException {
        CRC32C crc32c = new CRC32C();
        long left = part.sizeBytes();
        try (ReadableByteChannel channel = part.open()) {
            while (left > 0) {
                ByteBuffer chunk = ByteBuffer.allocate((int) Math.min(CHUNK_BYTES, left));
                fill(channel, chunk, part, left);
                left -= chunk.remaining();
                crc32c.update(chunk.duplicate());
                if (call.awaitSendable(deadline)) {
                    call.send(CopySegmentRequest.newBuilder().setChunk(UnsafeByteOperations.unsafeWrap(chunk)).build());
                }
            }
        }
        part.checkSizeIsUnchanged();
        return new SentPart(part.name(), part.sizeBytes(), (int) crc32c.getValue());
    }

    private static void fill(ReadableByteChannel channel, ByteBuffer chunk, SourcePart part, long left)
            throws IOException {
        while (chunk.hasRemaining()) {
            if (channel.read(chunk) < 0) {
                throw new EOFException("the " + part.name() + " of " + part.sizeBytes() + " bytes ended "
                    + (left - chunk.position()) + " bytes too early");
            }
        }
        chunk.flip();
    }
}
