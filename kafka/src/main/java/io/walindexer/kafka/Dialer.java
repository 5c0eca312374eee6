package io.walindexer.kafka;

import io.grpc.ChannelCredentials;
import io.grpc.Deadline;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.okhttp.OkHttpChannelBuilder;
import java.net.InetAddress;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import java.util.logging.Level;
import java.util.logging.Logger;

/** Makes the channels to workers, with the credentials of the configuration. */
final class Dialer {
    // The bytes that a worker may send ahead of what was requested, for each stream.
    static final int FLOW_CONTROL_WINDOW = 1 << 20;
    private static final int MESSAGE_SIZE_MAX = 4 << 20;

    // gRPC logs every message that arrives after its stream was cancelled. Each consumer that stops reading cancels
    // one. Held here, because the level goes with the logger.
    private static final Logger STREAMS = Logger.getLogger("io.grpc.internal.AbstractClientStream");

    static {
        STREAMS.setLevel(Level.WARNING);
    }

    private final TlsFiles tls;
    private final Supplier<Metadata> headers;
    // gRPC's own threads go on for a second after the last channel is closed.
    private final ExecutorService transports =
        Executors.newCachedThreadPool(task -> daemon(task, "wal-indexer-transport"));
    private final ScheduledThreadPoolExecutor timer =
        new ScheduledThreadPoolExecutor(1, task -> daemon(task, "wal-indexer-timer"));

    /** {@code tls} is null for connections without TLS. */
    Dialer(TlsFiles tls, Supplier<Metadata> headers) {
        this.tls = tls;
        this.headers = headers;
        timer.setRemoveOnCancelPolicy(true);
    }

    /** Reads the TLS files that have changed. */
    void refresh() {
        if (tls != null) {
            tls.refresh();
        }
    }

    Worker worker(Endpoint endpoint, InetAddress address) {
        String literal = endpoint.at(address).getAddress().getHostAddress();
        String name = endpoint.host().equals(literal) ? endpoint.authority()
            : endpoint.authority() + " (" + literal + ")";
        return new Worker(name, () -> dial(endpoint, address), headers);
    }

    /** Ends the threads of all channels, which are closed before, and waits for that until the deadline. */
    void close(Deadline deadline) throws InterruptedException {
        transports.shutdownNow();
        timer.shutdownNow();
        transports.awaitTermination(deadline.timeRemaining(TimeUnit.MILLISECONDS), TimeUnit.MILLISECONDS);
        timer.awaitTermination(deadline.timeRemaining(TimeUnit.MILLISECONDS), TimeUnit.MILLISECONDS);
    }

    private static Thread daemon(Runnable task, String name) {
        Thread thread = new Thread(task, name);
        thread.setDaemon(true);
        return thread;
    }

    // Buffers for retries are off: a copy is sent again from its files. Callbacks only take a lock and wake a
    // thread, so they run on the transport's own thread.
    private ManagedChannel dial(Endpoint endpoint, InetAddress address) {
        refresh();
        ChannelCredentials credentials = tls == null ? InsecureChannelCredentials.create() : tls.credentials();
        int port = endpoint.at(address).getPort();
        return OkHttpChannelBuilder.forAddress(address.getHostAddress(), port, credentials)
            .overrideAuthority(endpoint.authority())
            .directExecutor()
            .offloadExecutor(transports)
            .transportExecutor(transports)
            .scheduledExecutorService(timer)
            .disableRetry()
            .flowControlWindow(FLOW_CONTROL_WINDOW)
            .maxInboundMessageSize(MESSAGE_SIZE_MAX)
            .keepAliveTime(20, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .idleTimeout(10, TimeUnit.MINUTES)
            .userAgent("wal-indexer-kafka")
            .build();
    }
}
