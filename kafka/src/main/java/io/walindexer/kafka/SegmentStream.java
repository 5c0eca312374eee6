package io.walindexer.kafka;

import com.google.protobuf.ByteString;
import io.grpc.Deadline;
import io.grpc.Status;
import io.walindexer.kafka.v1.Archive.ReadSegmentRequest;
import io.walindexer.kafka.v1.Archive.ReadSegmentResponse;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.Deque;

/**
 * An open ReadSegment call. It requests a message only when its bytes are read. It keeps the last bytes that were
 * read, because Kafka's next fetch starts a little before the end of the last one. One thread uses it at a time.
 */
final class SegmentStream {
    private final WorkerCall<ReadSegmentRequest, ReadSegmentResponse> call;
    private final Worker worker;
    private final long segmentSize;
    private final long end;
    private final int replayBytes;

    // The bytes of the segment from windowStart to windowEnd.
    private final Deque<ByteString> window = new ArrayDeque<>();
    private long windowStart;
    private long windowEnd;
    private long position;
    // The rest of the message that has the position.
    private ByteBuffer current = ByteBuffer.allocate(0);
    private boolean requested = true;
    private boolean failed;

    private SegmentStream(WorkerCall<ReadSegmentRequest, ReadSegmentResponse> call, Worker worker, long segmentSize,
            ReadSegmentRequest request, int replayBytes) {
        this.call = call;
        this.worker = worker;
        this.segmentSize = segmentSize;
        this.end = request.hasEnd() ? Math.min(request.getEnd(), segmentSize) : segmentSize;
        this.replayBytes = replayBytes;
        this.position = request.getPosition();
        this.windowStart = position;
        this.windowEnd = position;
    }

    /** Sends the request, and waits for the first message, so that a segment that is not there is known now. */
    static SegmentStream open(WorkerCall<ReadSegmentRequest, ReadSegmentResponse> call, Worker worker,
            long segmentSize, ReadSegmentRequest request, int replayBytes, Deadline deadline)
            throws WorkerException, InterruptedException {
        SegmentStream stream = new SegmentStream(call, worker, segmentSize, request, replayBytes);
        boolean opened = false;
        try {
            call.sendOnly(request);
            stream.receiveFirst(deadline);
            opened = true;
            return stream;
        } finally {
            if (!opened) {
                stream.close();
            }
        }
    }

    /**
     * Reads as {@link java.io.InputStream#read(byte[], int, int)} does. After an exception the stream is of no use.
     */
    int read(byte[] target, int offset, int length, Deadline deadline) throws WorkerException, InterruptedException {
        boolean done = false;
        try {
            while (!current.hasRemaining()) {
                if (position < windowEnd) {
                    current = rest();
                } else if (!receive(deadline)) {
                    done = true;
                    return -1;
                }
            }
            int count = Math.min(length, current.remaining());
            current.get(target, offset, count);
            position += count;
            done = true;
            return count;
        } finally {
            failed |= !done;
        }
    }

    /** Goes to a position among the bytes that are kept. */
    void seek(long newPosition) {
        if (!covers(newPosition)) {
            throw new IllegalArgumentException("position " + newPosition + " is not kept");
        }
        position = newPosition;
        current = ByteBuffer.allocate(0);
    }

    boolean covers(long newPosition) {
        return windowStart <= newPosition && newPosition <= windowEnd;
    }

    long position() {
        return position;
    }

    long keptBytes() {
        return windowEnd - windowStart;
    }

    Worker worker() {
        return worker;
    }

    /** Whether the stream can go on: it has not failed, and there is more to read. */
    boolean isUsable() {
        return !failed && !call.hasFailed() && position < end;
    }

    void close() {
        failed = true;
        call.close();
        window.clear();
    }

    private void receiveFirst(Deadline deadline) throws WorkerException, InterruptedException {
        ReadSegmentResponse first = call.next(deadline);
        requested = false;
        if (first == null) {
            checkComplete();
            return;
        }
        if (first.getSegmentSizeBytes() != segmentSize) {
            throw call.error(Status.Code.INTERNAL, "the stored segment has "
                + Long.toUnsignedString(first.getSegmentSizeBytes()) + " bytes, Kafka's metadata say " + segmentSize);
        }
        add(first.getChunk());
    }

    private boolean receive(Deadline deadline) throws WorkerException, InterruptedException {
        if (!requested) {
            call.request();
            requested = true;
        }
        ReadSegmentResponse message = call.next(deadline);
        if (message == null) {
            checkComplete();
            return false;
        }
        requested = false;
        add(message.getChunk());
        return true;
    }

    private void add(ByteString chunk) throws WorkerException {
        if (chunk.isEmpty()) {
            return;
        }
        window.addLast(chunk);
        windowEnd += chunk.size();
        if (windowEnd > end) {
            throw call.error(Status.Code.INTERNAL, "the worker sent bytes up to " + windowEnd + ", beyond " + end);
        }
        while (position - windowStart - window.getFirst().size() >= replayBytes) {
            windowStart += window.removeFirst().size();
        }
    }

    private void checkComplete() throws WorkerException {
        if (windowEnd != end) {
            throw call.error(Status.Code.INTERNAL, "the worker ended the segment at " + windowEnd
                + ", it ends at " + end);
        }
    }

    private ByteBuffer rest() {
        long start = windowStart;
        for (ByteString chunk : window) {
            if (position < start + chunk.size()) {
                return chunk.substring((int) (position - start)).asReadOnlyByteBuffer();
            }
            start += chunk.size();
        }
        throw new IllegalStateException("position " + position + " is not kept");
    }
}
