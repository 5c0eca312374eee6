package io.walindexer.kafka;

import io.grpc.Deadline;
import io.grpc.Status;
import java.time.Duration;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Repeats a call within its deadline. After UNAVAILABLE it is sent to another worker at once, and after a pause
 * when all were tried. After RESOURCE_EXHAUSTED it waits as long as the worker asks. Other errors end it.
 */
final class Retry {
    private static final Logger LOG = LoggerFactory.getLogger(Retry.class);
    private static final long PAUSE_MS_MIN = 200;
    private static final long PAUSE_MS_MAX = 5_000;

    /** One attempt, at one worker. */
    interface Attempt<T> {
        T at(Worker worker) throws Exception;
    }

    private final WorkerPool pool;

    Retry(WorkerPool pool) {
        this.pool = pool;
    }

    /** {@code what} is for the log, such as "copy of orders:3:17". */
    <T> T call(String what, Deadline deadline, Attempt<T> attempt) throws Exception {
        Set<Worker> tried = new HashSet<>();
        for (int round = 0;; ) {
            Worker worker = null;
            WorkerException failure;
            try {
                worker = pool.pick(tried);
                if (worker == null) {
                    tried.clear();
                    continue;
                }
                T result = attempt.at(worker);
                worker.succeeded();
                return result;
            } catch (WorkerException e) {
                failure = e;
            }
            if (!isRepeated(failure) || pool.isClosed()) {
                throw failure;
            }
            long askedMs = failure.retryDelay().map(Duration::toMillis).orElse(0L);
            if (worker != null) {
                worker.failed(askedMs);
                tried.add(worker);
            }
            long pauseMs = 0;
            if (failure.code() == Status.Code.RESOURCE_EXHAUSTED || !anotherIsUntried(tried)) {
                pauseMs = Math.max(askedMs, backoffMs(round++));
                tried.clear();
            }
            pool.lookupSoon();
            if (pauseMs >= deadline.timeRemaining(TimeUnit.MILLISECONDS)) {
                throw failure;
            }
            LOG.warn("{} is tried again in {} ms: {}", what, pauseMs, failure.getMessage());
            pool.pause(pauseMs);
        }
    }

    private boolean anotherIsUntried(Set<Worker> tried) {
        return pool.all().stream().anyMatch(worker -> !tried.contains(worker) && !worker.isAvoided());
    }

    private static boolean isRepeated(WorkerException failure) {
        return failure.code() == Status.Code.UNAVAILABLE || failure.code() == Status.Code.RESOURCE_EXHAUSTED;
    }

    private static long backoffMs(int round) {
        long limit = Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN << Math.min(round, 5));
        return limit / 2 + ThreadLocalRandom.current().nextLong(limit / 2 + 1);
    }
}
