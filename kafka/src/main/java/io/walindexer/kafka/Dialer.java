package io.walindexer.kafka;

import io.grpc.ChannelCredentials;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.okhttp.OkHttpChannelBuilder;
import java.net.InetAddress;
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

    /** {@code tls} is null for connections without TLS. */
    Dialer(TlsFiles tls, Supplier<Metadata> headers) {
        this.tls = tls;
        this.headers = headers;
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

    // Buffers for retries are off: a copy is sent again from its files. Callbacks only take a lock and wake a
    // thread, so they run on the transport's own thread.
    private ManagedChannel dial(Endpoint endpoint, InetAddress address) {
        refresh();
        ChannelCredentials credentials = tls == null ? InsecureChannelCredentials.create() : tls.credentials();
        int port = endpoint.at(address).getPort();
        return OkHttpChannelBuilder.forAddress(address.getHostAddress(), port, credentials)
            .overrideAuthority(endpoint.authority())
            .directExecutor()
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
