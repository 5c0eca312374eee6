package io.walindexer.kafka;

import io.grpc.CallOptions;
import io.grpc.ConnectivityState;
import io.grpc.Deadline;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;

/** One address of the workers: its channel, its calls in flight, and until when it is avoided. */
final class Worker {
    private static final long CONNECT_TIMEOUT_MS = 5_000;
    private static final long AVOID_MS_MIN = 100;
    private static final long AVOID_MS_MAX = 5_000;

    private final String name;
    private final Supplier<ManagedChannel> dial;
    private final Supplier<Metadata> headers;
    private final AtomicInteger callsInFlight = new AtomicInteger();
    private final AtomicInteger failuresInRow = new AtomicInteger();
    private volatile long avoidUntilNanos = System.nanoTime();
    private ManagedChannel channel;
    private boolean closed;

    Worker(String name, Supplier<ManagedChannel> dial, Supplier<Metadata> headers) {
        this.name = name;
        this.dial = dial;
        this.headers = headers;
    }

    /** Connects if need be, and starts a call that gRPC ends at {@code callDeadline}. */
    <Q, R> WorkerCall<Q, R> start(MethodDescriptor<Q, R> method, Deadline connectDeadline, Deadline callDeadline)
            throws WorkerException, InterruptedException {
        ManagedChannel connected = connect(connectDeadline);
        callsInFlight.incrementAndGet();
        boolean started = false;
        try {
            WorkerCall<Q, R> call = new WorkerCall<>(
                connected.newCall(method, CallOptions.DEFAULT.withDeadline(callDeadline)),
                headers.get(), name, callsInFlight::decrementAndGet);
            started = true;
            return call;
        } finally {
            if (!started) {
                callsInFlight.decrementAndGet();
            }
        }
    }

    int callsInFlight() {
        return callsInFlight.get();
    }

    boolean isAvoided() {
        return avoidUntilNanos - System.nanoTime() > 0;
    }

    /** Avoids this address for a while: longer after each failure, and at least as long as the worker asks. */
    void failed(long askedMs) {
        int doublings = Math.min(failuresInRow.getAndIncrement(), 6);
        long limitMs = Math.min(AVOID_MS_MAX, AVOID_MS_MIN << doublings);
        long ms = Math.max(askedMs, limitMs / 2 + ThreadLocalRandom.current().nextLong(limitMs / 2 + 1));
        avoidUntilNanos = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(ms);
    }

    void succeeded() {
        failuresInRow.set(0);
        avoidUntilNanos = System.nanoTime();
    }

    /** Lets calls in flight end, and takes no others. */
    synchronized void retire() {
        closed = true;
        if (channel != null) {
            channel.shutdown();
        }
    }

    /** Ends all calls. */
    synchronized void close() {
        closed = true;
        if (channel != null) {
            channel.shutdownNow();
        }
    }

    void awaitClosed(Deadline deadline) throws InterruptedException {
        ManagedChannel last;
        synchronized (this) {
            last = channel;
        }
        if (last != null) {
            last.awaitTermination(Math.max(0, deadline.timeRemaining(TimeUnit.MILLISECONDS)), TimeUnit.MILLISECONDS);
        }
    }

    @Override
    public String toString() {
        return name;
    }

    // A call waits for its connection here, and not in gRPC, so that an address that does not answer costs
    // seconds and not the call's whole time.
    private ManagedChannel connect(Deadline deadline) throws WorkerException, InterruptedException {
        ManagedChannel current = channel();
        Deadline connected = deadline.minimum(Deadline.after(CONNECT_TIMEOUT_MS, TimeUnit.MILLISECONDS));
        ConnectivityState state = current.getState(true);
        while (state == ConnectivityState.IDLE || state == ConnectivityState.CONNECTING) {
            CountDownLatch changed = new CountDownLatch(1);
            current.notifyWhenStateChanged(state, changed::countDown);
            if (!changed.await(connected.timeRemaining(TimeUnit.MILLISECONDS), TimeUnit.MILLISECONDS)) {
                throw WorkerException.of(Status.Code.UNAVAILABLE, "no connection within the time allowed", name);
            }
            state = current.getState(true);
        }
        return current;
    }

    // A channel that could not connect is replaced: it would try again only after a delay of its own, which
    // can be minutes.
    private synchronized ManagedChannel channel() throws WorkerException {
        if (closed) {
            throw WorkerException.of(Status.Code.UNAVAILABLE, "the address is no longer used", name);
        }
        if (channel != null && channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
            channel.shutdown();
            channel = null;
        }
        if (channel == null) {
            channel = dial.get();
        }
        return channel;
    }
}
