package io.walindexer.kafka;

import io.grpc.Status;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.nio.channels.ClosedByInterruptException;
import org.apache.kafka.server.log.remote.storage.RemoteResourceNotFoundException;
import org.apache.kafka.server.log.remote.storage.RemoteStorageException;

/** The one map from what went wrong to the exceptions that Kafka handles. Kafka handles no others. */
final class Failures {
    // Later releases of Kafka have it. They do not count it as an error of the storage.
    private static final MethodHandle RETRIABLE =
        constructor("org.apache.kafka.server.log.remote.storage.RetriableRemoteStorageException");

    private Failures() {
    }

    /** {@code what} is the operation and the segment, such as "fetch of orders:3:17". */
    static RemoteStorageException toRemoteStorageException(String what, Throwable failure) {
        if (failure instanceof WorkerException) {
            WorkerException error = (WorkerException) failure;
            if (error.code() == Status.Code.NOT_FOUND) {
                return new RemoteResourceNotFoundException(message(what, failure), failure);
            }
            if (error.isRetriable() && RETRIABLE != null) {
                return retriable(message(what, failure), failure);
            }
        }
        return ofCopy(what, failure);
    }

    /**
     * The same for a copy. It is never the exception for what may succeed later: after that one Kafka draws a new id
     * and does not delete the old one, under which a copy may still land.
     */
    static RemoteStorageException ofCopy(String what, Throwable failure) {
        if (failure instanceof InterruptedException || failure instanceof ClosedByInterruptException) {
            Thread.currentThread().interrupt();
            return new RemoteStorageException(what + " was interrupted", failure);
        }
        return new RemoteStorageException(message(what, failure), failure);
    }

    private static String message(String what, Throwable failure) {
        return what + " failed: " + describe(failure);
    }

    static String describe(Throwable failure) {
        return failure instanceof WorkerException || failure instanceof ReceiptException
            ? failure.getMessage() : failure.toString();
    }

    private static RemoteStorageException retriable(String message, Throwable cause) {
        try {
            return (RemoteStorageException) RETRIABLE.invoke(message, cause);
        } catch (Throwable e) {
            return new RemoteStorageException(message, cause);
        }
    }

    private static MethodHandle constructor(String className) {
        try {
            Class<?> type = Class.forName(className, false, RemoteStorageException.class.getClassLoader());
            return MethodHandles.publicLookup()
                .findConstructor(type, MethodType.methodType(void.class, String.class, Throwable.class));
        } catch (ReflectiveOperationException e) {
            return null;
        }
    }
}
