package io.walindexer.kafka;

import io.grpc.Deadline;
import io.grpc.Status;
import io.walindexer.kafka.v1.Archive.ReadSegmentRequest;
import io.walindexer.kafka.v1.Archive.ReadSegmentResponse;
import java.security.cert.CertificateException;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.kafka.common.config.ConfigException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The call of every worker when the broker starts. What an operator must fix stops the start. A worker that is
 * away does not: brokers start while workers are away.
 */
final class StartupCheck {
    private static final Logger LOG = LoggerFactory.getLogger(StartupCheck.class);
    private static final long TIMEOUT_MS = 10_000;
    private static final int THREADS_MAX = 16;

    private StartupCheck() {
    }

    static void run(WorkerPool pool) throws InterruptedException {
        pool.unresolved().forEach(endpoint -> LOG.warn("{} has no address now", endpoint));
        List<Worker> workers = pool.all();
        if (workers.isEmpty()) {
            return;
        }
        Deadline deadline = Deadline.after(TIMEOUT_MS, TimeUnit.MILLISECONDS);
        ExecutorService threads = Executors.newFixedThreadPool(Math.min(workers.size(), THREADS_MAX));
        try {
            List<Future<Void>> checks = workers.stream().map(worker -> threads.<Void>submit(() -> {
                check(worker, deadline);
                return null;
            })).collect(Collectors.toList());
            for (Future<Void> check : checks) {
                check.get();
            }
        } catch (ExecutionException e) {
            if (e.getCause() instanceof ConfigException) {
                throw (ConfigException) e.getCause();
            }
            throw new IllegalStateException("the check of the workers failed", e.getCause());
        } finally {
            threads.shutdownNow();
        }
    }

    // A request without a name is refused as invalid by every worker that knows the method and the caller.
    private static void check(Worker worker, Deadline deadline) throws InterruptedException {
        try (WorkerCall<ReadSegmentRequest, ReadSegmentResponse> call =
                worker.start(ArchiveMethods.READ_SEGMENT, deadline, deadline)) {
            call.sendOnly(ReadSegmentRequest.getDefaultInstance());
            call.next(deadline);
        } catch (WorkerException e) {
            judge(worker, e);
        }
    }

    private static void judge(Worker worker, WorkerException failure) {
        if (failure.code() == Status.Code.UNIMPLEMENTED) {
            throw new ConfigException("worker " + worker + " does not have " + ArchiveMethods.SERVICE + ": upgrade it"
                + " to the release of this plugin or a later one, or correct workers if this is no wal-indexer. "
                + failure.getMessage());
        }
        if (failure.code() == Status.Code.UNAUTHENTICATED || failure.code() == Status.Code.PERMISSION_DENIED) {
            throw new ConfigException("worker " + worker + " refuses this broker: set token.file to a token that has"
                + " the role \"archive\" there. " + failure.getMessage());
        }
        if (isAboutCertificate(failure)) {
            throw new ConfigException("the certificate of worker " + worker + " is not accepted: set tls.ca.file to"
                + " its authority, and workers to a name that is in it. " + failure.getMessage());
        }
        if (failure.code() != Status.Code.INVALID_ARGUMENT) {
            LOG.warn("a worker cannot be used now: {}", failure.getMessage());
        }
    }

    private static boolean isAboutCertificate(Throwable failure) {
        for (Throwable cause = failure; cause != null; cause = cause.getCause()) {
            if (cause instanceof CertificateException) {
                return true;
            }
        }
        return false;
    }
}
