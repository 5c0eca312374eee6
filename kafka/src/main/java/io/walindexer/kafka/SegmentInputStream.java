package io.walindexer.kafka;

import io.grpc.Deadline;
import io.grpc.Status;
import java.io.IOException;
import java.io.InputStream;
import java.io.InterruptedIOException;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The bytes of a segment, as Kafka reads them. If a worker goes away in between, it goes on at another one. Closing
 * it before its end hands the stream on, for a fetch that continues. One thread uses it.
 */
final class SegmentInputStream extends InputStream {
    private static final Logger LOG = LoggerFactory.getLogger(SegmentInputStream.class);
    // How often the same position is opened again, if no byte comes in between.
    private static final int REOPENED_MAX = 3;

    /** Opens the segment at a position. */
    interface Opener {
        SegmentStream open(long position, Deadline deadline) throws Exception;
    }

    private final String what;
    private final Opener opener;
    private final ParkedStreams parked;
    private final String copyId;
    private final long timeoutMs;
    private final OperationMetrics metrics;
    private SegmentStream stream;
    private boolean closed;

    /** {@code copyId} is null if the stream is not kept when it is closed. */
    SegmentInputStream(String what, SegmentStream stream, Opener opener, ParkedStreams parked, String copyId,
            long timeoutMs, OperationMetrics metrics) {
        this.what = what;
        this.stream = stream;
        this.opener = opener;
        this.parked = parked;
        this.copyId = copyId;
        this.timeoutMs = timeoutMs;
        this.metrics = metrics;
    }

    @Override
    public int read() throws IOException {
        byte[] one = new byte[1];
        return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
    }

    @Override
    public int read(byte[] target, int offset, int length) throws IOException {
        Objects.checkFromIndexSize(offset, length, target.length);
        if (closed) {
            throw new IOException(what + ": the stream is closed");
        }
        if (length == 0) {
            return 0;
        }
        try {
            int count = readOrReopen(target, offset, length);
            metrics.moved(Math.max(0, count));
            return count;
        } catch (InterruptedException e) {
            fail();
            Thread.currentThread().interrupt();
            InterruptedIOException interrupted = new InterruptedIOException(what + " was interrupted");
            interrupted.initCause(e);
            throw interrupted;
        } catch (Throwable e) {
            fail();
            throw new IOException(what + " failed: " + Failures.describe(e), e);
        }
    }

    @Override
    public void close() {
        if (closed) {
            return;
        }
        closed = true;
        if (copyId == null || Thread.currentThread().isInterrupted()) {
            stream.close();
        } else {
            parked.park(copyId, stream);
        }
    }

    private int readOrReopen(byte[] target, int offset, int length) throws Exception {
        if (Thread.interrupted()) {
            throw new InterruptedException();
        }
        Deadline deadline = Deadline.after(timeoutMs, TimeUnit.MILLISECONDS);
        for (int reopened = 0;; reopened++) {
            try {
                return stream.read(target, offset, length, deadline);
            } catch (WorkerException e) {
                if (!isReopened(e) || deadline.isExpired() || reopened == REOPENED_MAX) {
                    throw e;
                }
                long position = stream.position();
                LOG.warn("{} is opened again at {}: {}", what, position, e.getMessage());
                stream.close();
                stream.worker().failed(0);
                stream = opener.open(position, deadline);
            }
        }
    }

    private static boolean isReopened(WorkerException failure) {
        return failure.isRetriable() || failure.code() == Status.Code.CANCELLED;
    }

    private void fail() {
        metrics.failed();
        closed = true;
        stream.close();
    }
}
