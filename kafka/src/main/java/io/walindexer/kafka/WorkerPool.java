package io.walindexer.kafka;

import io.grpc.Deadline;
import io.grpc.Status;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The workers: every address of every configured name. Names are looked up again every 30 s and after a failure.
 * A lookup that fails changes nothing.
 */
final class WorkerPool {
    private static final Logger LOG = LoggerFactory.getLogger(WorkerPool.class);
    private static final long LOOKUP_EVERY_MS = 30_000;
    private static final long LOOKUP_AGAIN_MS = 1_000;

    /** Looks up the addresses of a name. */
    interface Resolver {
        List<InetAddress> lookup(String host) throws UnknownHostException;
    }

    private final List<Endpoint> endpoints;
    private final Resolver resolver;
    private final Dialer dialer;
    private final ScheduledExecutorService background;
    private final CountDownLatch closed = new CountDownLatch(1);
    // Guarded by this.
    private final Map<Endpoint, Map<InetAddress, Worker>> workers = new HashMap<>();
    private long lookupAllowedNanos = System.nanoTime();

    WorkerPool(List<Endpoint> endpoints, Resolver resolver, Dialer dialer, ScheduledExecutorService background) {
        this.endpoints = endpoints;
        this.resolver = resolver;
        this.dialer = dialer;
        this.background = background;
    }

    /** Looks up all names now, and from now on in the background. */
    void start() {
        lookupAll();
        background.scheduleWithFixedDelay(this::lookupAll, LOOKUP_EVERY_MS, LOOKUP_EVERY_MS, TimeUnit.MILLISECONDS);
    }

    /** The names that have no address. */
    synchronized List<Endpoint> unresolved() {
        List<Endpoint> without = new ArrayList<>(endpoints);
        without.removeIf(endpoint -> !workers.getOrDefault(endpoint, Map.of()).isEmpty());
        return without;
    }

    synchronized List<Worker> all() {
        List<Worker> all = new ArrayList<>();
        workers.values().forEach(addresses -> all.addAll(addresses.values()));
        return all;
    }

    /**
     * The worker with the fewest calls in flight that is neither avoided nor tried. If all others are avoided,
     * one of those.
     *
     * @return null if every address was tried
     */
    Worker pick(Set<Worker> tried) throws WorkerException {
        if (isClosed()) {
            throw WorkerException.of(Status.Code.CANCELLED, "the plugin is closed", "(none)");
        }
        List<Worker> candidates = all();
        if (candidates.isEmpty()) {
            lookupSoon();
            throw WorkerException.of(Status.Code.UNAVAILABLE, "no address is known", endpoints.toString());
        }
        candidates.removeAll(tried);
        Collections.shuffle(candidates);
        return candidates.stream()
            .min(Comparator.comparing(Worker::isAvoided).thenComparing(Worker::callsInFlight))
            .orElse(null);
    }

    /** Looks up the names soon, since a worker failed. */
    void lookupSoon() {
        synchronized (this) {
            if (isClosed() || System.nanoTime() - lookupAllowedNanos < 0) {
                return;
            }
            lookupAllowedNanos = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(LOOKUP_AGAIN_MS);
        }
        background.execute(this::lookupAll);
    }

    /** Waits, unless the pool is closed or the thread is interrupted. */
    void pause(long millis) throws InterruptedException {
        closed.await(millis, TimeUnit.MILLISECONDS);
    }

    boolean isClosed() {
        return closed.getCount() == 0;
    }

    /** Ends all calls, and waits for that until the deadline. */
    void close(Deadline deadline) throws InterruptedException {
        closed.countDown();
        List<Worker> all = all();
        all.forEach(Worker::close);
        for (Worker worker : all) {
            worker.awaitClosed(deadline);
        }
    }

    private void lookupAll() {
        for (Endpoint endpoint : endpoints) {
            try {
                replace(endpoint, resolver.lookup(endpoint.host()));
            } catch (UnknownHostException e) {
                LOG.warn("cannot look up {}: {}", endpoint, e.toString());
            } catch (RuntimeException e) {
                LOG.error("cannot look up {}", endpoint, e);
            }
        }
    }

    private synchronized void replace(Endpoint endpoint, List<InetAddress> addresses) {
        if (isClosed() || addresses.isEmpty()) {
            return;
        }
        Map<InetAddress, Worker> before = workers.getOrDefault(endpoint, Map.of());
        Map<InetAddress, Worker> now = new HashMap<>();
        for (InetAddress address : addresses) {
            Worker known = before.get(address);
            now.put(address, known != null ? known : dialer.worker(endpoint, address));
        }
        before.forEach((address, worker) -> {
            if (!now.containsKey(address)) {
                worker.retire();
            }
        });
        workers.put(endpoint, now);
    }
}
