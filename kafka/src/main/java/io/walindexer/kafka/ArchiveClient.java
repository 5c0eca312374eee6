package io.walindexer.kafka;

import com.google.protobuf.ByteString;
import io.grpc.Deadline;
import io.grpc.Status;
import io.walindexer.kafka.v1.Archive.CopySegmentResponse;
import io.walindexer.kafka.v1.Archive.DeleteSegmentRequest;
import io.walindexer.kafka.v1.Archive.DeleteSegmentResponse;
import io.walindexer.kafka.v1.Archive.ReadAttachmentRequest;
import io.walindexer.kafka.v1.Archive.ReadAttachmentResponse;
import io.walindexer.kafka.v1.Archive.ReadSegmentRequest;
import io.walindexer.kafka.v1.Archive.ReadSegmentResponse;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32C;
import org.apache.kafka.server.log.remote.storage.LogSegmentData;
import org.apache.kafka.server.log.remote.storage.RemoteLogSegmentMetadata.CustomMetadata;
import org.apache.kafka.server.log.remote.storage.RemoteStorageManager.IndexType;

/** The four operations on segments, each with its deadline and its retries. */
final class ArchiveClient {
    private static final int ATTACHMENT_BYTES_MAX = 128 << 20;
    // No call is without a deadline. A stream that is still read then is opened again.
    private static final long STREAM_AGE_HOURS_MAX = 1;

    private final PluginConfig config;
    private final Retry retry;
    private final ParkedStreams parked;

    ArchiveClient(PluginConfig config, Retry retry, ParkedStreams parked) {
        this.config = config;
        this.retry = retry;
        this.parked = parked;
    }

    /** Copies a segment. An attempt after the first has the same name, which the workers allow. */
    CustomMetadata copy(Segment segment, LogSegmentData data, OperationMetrics metrics) throws Exception {
        Deadline deadline = deadline(PluginConfig.COPY_TIMEOUT_MS);
        SourcePart source = SourcePart.segment(data, segment.sizeBytes());
        List<SourcePart> attachments = SourcePart.attachments(data);
        SegmentCopy copy = new SegmentCopy(segment, source, attachments, deadline);
        CopySegmentResponse receipt = retry.call("copy of " + segment, deadline, copy::send);
        metrics.moved(source.sizeBytes());
        return Segment.customMetadata(receipt.getLocator());
    }

    /** Opens a segment from {@code start} to {@code end}, which is exclusive; null is the segment's end. */
    InputStream fetch(Segment segment, long start, Long end, OperationMetrics metrics) throws Exception {
        String what = "fetch of " + segment;
        if (start < 0 || start > segment.sizeBytes() || (end != null && end < start)) {
            throw new IllegalArgumentException("there are no bytes from " + start + " to " + end + " in a segment of "
                + segment.sizeBytes());
        }
        SegmentInputStream.Opener opener = (position, deadline) -> open(what, segment, position, end, deadline);
        SegmentStream stream = end == null ? parked.take(segment.copyId(), start) : null;
        if (stream == null) {
            stream = opener.open(start, deadline(PluginConfig.FETCH_TIMEOUT_MS));
        }
        return new SegmentInputStream(what, stream, opener, parked, end == null ? segment.copyId() : null,
            config.getLong(PluginConfig.FETCH_TIMEOUT_MS), metrics);
    }

    /** The bytes of one index file. */
    InputStream fetchIndex(Segment segment, IndexType type) throws Exception {
        Deadline deadline = deadline(PluginConfig.INDEX_TIMEOUT_MS);
        ReadAttachmentRequest request = ReadAttachmentRequest.newBuilder()
            .setName(segment.name()).setLocator(segment.locator()).setAttachment(Attachments.name(type)).build();
        return retry.call("fetch of the " + type + " index of " + segment, deadline, worker -> {
            try (WorkerCall<ReadAttachmentRequest, ReadAttachmentResponse> call =
                    worker.start(ArchiveMethods.READ_ATTACHMENT, deadline, deadline)) {
                call.sendOnly(request);
                return new ByteArrayInputStream(readAttachment(call, deadline));
            }
        });
    }

    /** Deletes a copy. It may be deleted already, or never have finished. */
    void delete(Segment segment) throws Exception {
        Deadline deadline = deadline(PluginConfig.DELETE_TIMEOUT_MS);
        parked.remove(segment.copyId());
        DeleteSegmentRequest request = DeleteSegmentRequest.newBuilder().setName(segment.name()).build();
        try {
            retry.call("deletion of " + segment, deadline, worker -> {
                try (WorkerCall<DeleteSegmentRequest, DeleteSegmentResponse> call =
                        worker.start(ArchiveMethods.DELETE_SEGMENT, deadline, deadline)) {
                    call.sendOnly(request);
                    DeleteSegmentResponse response = call.next(deadline);
                    if (response == null) {
                        throw call.error(Status.Code.INTERNAL, "the worker ended the deletion without a reply");
                    }
                    call.awaitEnd(deadline);
                    return response;
                }
            });
        } catch (WorkerException e) {
            if (e.code() != Status.Code.NOT_FOUND) {
                throw e;
            }
        }
    }

    private SegmentStream open(String what, Segment segment, long position, Long end, Deadline deadline)
            throws Exception {
        ReadSegmentRequest.Builder request = ReadSegmentRequest.newBuilder()
            .setName(segment.name()).setLocator(segment.locator()).setPosition(position);
        if (end != null) {
            request.setEnd(end);
        }
        return retry.call(what, deadline, worker -> {
            WorkerCall<ReadSegmentRequest, ReadSegmentResponse> call = worker.start(ArchiveMethods.READ_SEGMENT,
                deadline, Deadline.after(STREAM_AGE_HOURS_MAX, TimeUnit.HOURS));
            return SegmentStream.open(call, worker, segment.sizeBytes(), request.build(),
                config.getInt(PluginConfig.FETCH_REPLAY_BYTES), deadline);
        });
    }

    private static byte[] readAttachment(WorkerCall<ReadAttachmentRequest, ReadAttachmentResponse> call,
            Deadline deadline) throws WorkerException, InterruptedException, IOException {
        ReadAttachmentResponse message = call.next(deadline);
        if (message == null || !message.hasAttachment()) {
            throw call.error(Status.Code.INTERNAL, "the first message does not describe the attachment");
        }
        long size = message.getAttachment().getSizeBytes();
        int crc32c = message.getAttachment().getCrc32C();
        if (size < 0 || size > ATTACHMENT_BYTES_MAX) {
            throw call.error(Status.Code.INTERNAL, "the attachment has " + Long.toUnsignedString(size) + " bytes");
        }
        ByteArrayOutputStream bytes = new ByteArrayOutputStream((int) size);
        CRC32C read = new CRC32C();
        while (message != null) {
            ByteString chunk = message.getChunk();
            if (bytes.size() + chunk.size() > size) {
                throw call.error(Status.Code.INTERNAL, "the attachment is longer than its " + size + " bytes");
            }
            chunk.writeTo(bytes);
            read.update(chunk.asReadOnlyByteBuffer());
            call.request();
            message = call.next(deadline);
        }
        if (bytes.size() != size || (int) read.getValue() != crc32c) {
            throw call.error(Status.Code.INTERNAL, "the attachment of " + size + " bytes came with " + bytes.size()
                + " bytes, or with another checksum");
        }
        return bytes.toByteArray();
    }

    private Deadline deadline(String timeoutKey) {
        return Deadline.after(config.getLong(timeoutKey), TimeUnit.MILLISECONDS);
    }
}
