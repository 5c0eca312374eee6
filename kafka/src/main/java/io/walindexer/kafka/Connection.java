package io.walindexer.kafka;

import io.grpc.Deadline;
import io.grpc.Metadata;
import java.io.IOException;
import java.net.InetAddress;
import java.security.GeneralSecurityException;
import java.util.Arrays;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.apache.kafka.common.config.ConfigException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** All that a configured plugin holds open: the workers, the streams that are kept, and one background thread. */
final class Connection {
    private static final Logger LOG = LoggerFactory.getLogger(Connection.class);
    private static final long CLOSE_TIMEOUT_MS = 3_000;
    private static final long LOOK_EVERY_MS = 1_000;

    private final ScheduledExecutorService background;
    private final Dialer dialer;
    private final WorkerPool pool;
    private final ParkedStreams parked;
    private final ArchiveClient client;
    private final CopyLag copyLag;

    private Connection(PluginConfig config, WorkerPool.Resolver resolver) {
        background = Executors.newSingleThreadScheduledExecutor(task -> {
            Thread thread = new Thread(task, "wal-indexer-background");
            thread.setDaemon(true);
            return thread;
        });
        dialer = dialer(config);
        pool = new WorkerPool(config.workers(), resolver, dialer, background);
        parked = new ParkedStreams(config.getInt(PluginConfig.FETCH_PARKED_MAX),
            config.getLong(PluginConfig.FETCH_PARKED_IDLE_MS));
        client = new ArchiveClient(config, new Retry(pool), parked);
        copyLag = new CopyLag(PluginMBean.ofPartitions(config.brokerId()), System::currentTimeMillis);
    }

    /** Opens what the configuration names. What an operator must fix is a {@link ConfigException}. */
    static Connection open(PluginConfig config) {
        return open(config, host -> Arrays.asList(InetAddress.getAllByName(host)));
    }

    static Connection open(PluginConfig config, WorkerPool.Resolver resolver) {
        Connection connection = new Connection(config, resolver);
        boolean opened = false;
        try {
            connection.start(config.getBoolean(PluginConfig.STARTUP_CHECK));
            opened = true;
            return connection;
        } finally {
            if (!opened) {
                connection.close();
            }
        }
    }

    ArchiveClient client() {
        return client;
    }

    ParkedStreams parked() {
        return parked;
    }

    CopyLag copyLag() {
        return copyLag;
    }

    /** Ends all calls and threads, within a few seconds. */
    void close() {
        background.shutdownNow();
        parked.close();
        copyLag.close();
        Deadline deadline = Deadline.after(CLOSE_TIMEOUT_MS, TimeUnit.MILLISECONDS);
        try {
            pool.close(deadline);
            background.awaitTermination(deadline.timeRemaining(TimeUnit.MILLISECONDS), TimeUnit.MILLISECONDS);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        try {
            dialer.close(deadline);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private void start(boolean check) {
        pool.start();
        background.scheduleWithFixedDelay(parked::removeExpired, LOOK_EVERY_MS, LOOK_EVERY_MS, TimeUnit.MILLISECONDS);
        background.scheduleWithFixedDelay(copyLag::removeExpired, LOOK_EVERY_MS, LOOK_EVERY_MS, TimeUnit.MILLISECONDS);
        background.scheduleWithFixedDelay(dialer::refresh, LOOK_EVERY_MS, LOOK_EVERY_MS, TimeUnit.MILLISECONDS);
        if (!check) {
            return;
        }
        try {
            StartupCheck.run(pool);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new ConfigException("the check of the workers was interrupted");
        }
    }

    private static Dialer dialer(PluginConfig config) {
        Supplier<Metadata> headers = Metadata::new;
        TlsFiles tls = null;
        try {
            if (config.getString(PluginConfig.TOKEN_FILE) != null) {
                headers = new TokenFile(config.getString(PluginConfig.TOKEN_FILE));
            }
        } catch (IOException e) {
            throw new ConfigException(PluginConfig.TOKEN_FILE + ": " + e.getMessage());
        }
        try {
            if (config.getBoolean(PluginConfig.TLS_ENABLED)) {
                tls = new TlsFiles(config.getString(PluginConfig.TLS_CA_FILE),
                    config.getString(PluginConfig.TLS_CERT_FILE), config.getString(PluginConfig.TLS_KEY_FILE));
            }
        } catch (IOException | GeneralSecurityException | IllegalArgumentException e) {
            throw new ConfigException("the TLS files cannot be used (PEM is needed, and PKCS #8 for the key): " + e);
        }
        if (tls == null && config.getString(PluginConfig.TOKEN_FILE) != null) {
            LOG.warn("the token goes over connections that are not encrypted: set {}", PluginConfig.TLS_ENABLED);
        }
        return new Dialer(tls, headers);
    }
}
