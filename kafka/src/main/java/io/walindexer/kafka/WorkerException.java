package io.walindexer.kafka;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import io.grpc.Metadata;
import io.grpc.Status;
import io.walindexer.kafka.status.ErrorInfo;
import io.walindexer.kafka.status.RetryInfo;
import io.walindexer.kafka.status.RpcStatus;
import java.time.Duration;
import java.util.Optional;

/** A call that a worker did not answer with OK: the gRPC code, and what the status details say. */
final class WorkerException extends Exception {
    private static final long serialVersionUID = 1L;
    private static final Metadata.Key<byte[]> DETAILS =
        Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

    private final Status.Code code;
    private final String reason;
    private final Duration retryDelay;

    private WorkerException(Status status, String reason, Duration retryDelay, String worker) {
        super(message(status, reason, worker), status.getCause());
        this.code = status.getCode();
        this.reason = reason;
        this.retryDelay = retryDelay;
    }

    /** An error that the plugin itself found, without a status from a worker. */
    static WorkerException of(Status.Code code, String message, String worker) {
        return new WorkerException(code.toStatus().withDescription(message), "", null, worker);
    }

    /** The status that ended a call, with its {@code google.rpc.ErrorInfo} and {@code RetryInfo}, if any. */
    static WorkerException of(Status status, Metadata trailers, String worker) {
        String reason = "";
        Duration retryDelay = null;
        for (Any detail : details(trailers)) {
            try {
                if (detail.getTypeUrl().endsWith("/google.rpc.ErrorInfo")) {
                    reason = ErrorInfo.parseFrom(detail.getValue()).getReason();
                } else if (detail.getTypeUrl().endsWith("/google.rpc.RetryInfo")) {
                    com.google.protobuf.Duration delay = RetryInfo.parseFrom(detail.getValue()).getRetryDelay();
                    retryDelay = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
                }
            } catch (InvalidProtocolBufferException e) {
                // The code decides; details that cannot be read change nothing.
                continue;
            }
        }
        return new WorkerException(status, reason, retryDelay, worker);
    }

    Status.Code code() {
        return code;
    }

    /** The reason of the {@code ErrorInfo}, such as {@code COPY_DIFFERS}; empty if there is none. */
    String reason() {
        return reason;
    }

    /** How long the worker asks its caller to wait. */
    Optional<Duration> retryDelay() {
        return Optional.ofNullable(retryDelay);
    }

    /** Whether the same call may succeed later, or on another worker. */
    boolean isRetriable() {
        return code == Status.Code.UNAVAILABLE || code == Status.Code.RESOURCE_EXHAUSTED
            || code == Status.Code.DEADLINE_EXCEEDED;
    }

    private static Iterable<Any> details(Metadata trailers) {
        byte[] details = trailers == null ? null : trailers.get(DETAILS);
        if (details == null) {
            return RpcStatus.getDefaultInstance().getDetailsList();
        }
        try {
            return RpcStatus.parseFrom(details).getDetailsList();
        } catch (InvalidProtocolBufferException e) {
            return RpcStatus.getDefaultInstance().getDetailsList();
        }
    }

    private static String message(Status status, String reason, String worker) {
        StringBuilder message = new StringBuilder(status.getCode().name());
        if (!reason.isEmpty()) {
            message.append(" (").append(reason).append(')');
        }
        if (status.getDescription() != null) {
            message.append(": ").append(status.getDescription());
        }
        if (status.getCause() != null) {
            message.append(" (").append(status.getCause()).append(')');
        }
        return message.append(", worker ").append(worker).toString();
    }
}
