package io.walindexer.kafka;

import io.grpc.ClientCall;
import io.grpc.Deadline;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.ArrayDeque;
import java.util.Queue;
import java.util.concurrent.TimeUnit;

/**
 * One gRPC call, driven by the thread that uses it. Every wait ends at a deadline, at an interruption, or with
 * the call. Responses arrive only when they are requested, one at a time.
 */
final class WorkerCall<Q, R> implements AutoCloseable {
    private final ClientCall<Q, R> call;
    private final String worker;
    private final Runnable onEnd;

    // Guarded by this. The call's own methods are never invoked under this lock: gRPC holds locks of its own
    // when it invokes the listener.
    private final Queue<R> messages = new ArrayDeque<>(2);
    private Status status;
    private Metadata trailers;

    /** Starts the call, and asks for the first response. {@code onEnd} runs once, when gRPC has ended it. */
    WorkerCall(ClientCall<Q, R> call, Metadata headers, String worker, Runnable onEnd) {
        this.call = call;
        this.worker = worker;
        this.onEnd = onEnd;
        call.start(new Listener(), headers);
        call.request(1);
    }

    /** Sends the only request of a call. */
    void sendOnly(Q request) {
        call.sendMessage(request);
        call.halfClose();
    }

    /** Ends the requests. */
    void halfClose() {
        call.halfClose();
    }

    void send(Q request) {
        call.sendMessage(request);
    }

    /**
     * Waits until the transport takes another request without buffering.
     *
     * @return false if the worker has ended the call with OK, so that nothing more need be sent
     */
    boolean awaitSendable(Deadline deadline) throws WorkerException, InterruptedException {
        if (Thread.interrupted()) {
            throw new InterruptedException();
        }
        synchronized (this) {
            while (status == null) {
                if (call.isReady()) {
                    return true;
                }
                await(deadline);
            }
            if (!status.isOk()) {
                throw failure();
            }
            return false;
        }
    }

    /** Asks for another response. */
    void request() {
        call.request(1);
    }

    /**
     * Waits for a response that was requested.
     *
     * @return null if the worker has ended the call with OK
     */
    R next(Deadline deadline) throws WorkerException, InterruptedException {
        if (Thread.interrupted()) {
            throw new InterruptedException();
        }
        synchronized (this) {
            while (messages.isEmpty() && status == null) {
                await(deadline);
            }
            R message = messages.poll();
            if (message == null && !status.isOk()) {
                throw failure();
            }
            return message;
        }
    }

    /** Waits for the call's end, which must be OK and without another response. */
    void awaitEnd(Deadline deadline) throws WorkerException, InterruptedException {
        request();
        if (next(deadline) != null) {
            throw error(Status.Code.INTERNAL, "there is a second response to a call with one");
        }
    }

    /** Whether gRPC has ended the call, with any status. */
    synchronized boolean hasEnded() {
        return status != null;
    }

    /** Whether the call has ended with another status than OK. */
    synchronized boolean hasFailed() {
        return status != null && !status.isOk();
    }

    /** Ends the call, if it has not ended. The worker sees it as cancelled. */
    @Override
    public void close() {
        if (!hasEnded()) {
            call.cancel("the caller needs no more of it", null);
        }
    }

    /** An error of this call that the plugin found. */
    WorkerException error(Status.Code code, String message) {
        return WorkerException.of(code, message, worker);
    }

    // Holds the lock.
    private void await(Deadline deadline) throws WorkerException, InterruptedException {
        if (deadline.isExpired()) {
            throw error(Status.Code.DEADLINE_EXCEEDED, "the worker did not go on within the time allowed");
        }
        wait(Math.max(1, deadline.timeRemaining(TimeUnit.MILLISECONDS)));
    }

    private WorkerException failure() {
        return WorkerException.of(status, trailers, worker);
    }

    private final class Listener extends ClientCall.Listener<R> {
        @Override
        public void onMessage(R message) {
            synchronized (WorkerCall.this) {
                messages.add(message);
                WorkerCall.this.notifyAll();
            }
        }

        @Override
        public void onReady() {
            synchronized (WorkerCall.this) {
                WorkerCall.this.notifyAll();
            }
        }

        @Override
        public void onClose(Status endStatus, Metadata endTrailers) {
            synchronized (WorkerCall.this) {
                status = endStatus;
                trailers = endTrailers;
                WorkerCall.this.notifyAll();
            }
            onEnd.run();
        }
    }
}
