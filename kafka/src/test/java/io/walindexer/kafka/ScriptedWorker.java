package io.walindexer.kafka;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import com.google.protobuf.MessageLite;
import io.grpc.ForwardingServerCallListener;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.ServerInterceptor;
import io.grpc.ServerInterceptors;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.okhttp.OkHttpServerBuilder;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import io.walindexer.kafka.status.ErrorInfo;
import io.walindexer.kafka.status.RetryInfo;
import io.walindexer.kafka.status.RpcStatus;
import io.walindexer.kafka.v1.Archive.Attachment;
import io.walindexer.kafka.v1.Archive.CopyHeader;
import io.walindexer.kafka.v1.Archive.CopySegmentRequest;
import io.walindexer.kafka.v1.Archive.CopySegmentResponse;
import io.walindexer.kafka.v1.Archive.DeleteSegmentRequest;
import io.walindexer.kafka.v1.Archive.DeleteSegmentResponse;
import io.walindexer.kafka.v1.Archive.ReadAttachmentRequest;
import io.walindexer.kafka.v1.Archive.ReadAttachmentResponse;
import io.walindexer.kafka.v1.Archive.ReadSegmentRequest;
import io.walindexer.kafka.v1.Archive.ReadSegmentResponse;
import io.walindexer.kafka.v1.Archive.SegmentName;
import io.walindexer.kafka.v1.Indexer.Bundle;
import io.walindexer.kafka.v1.Indexer.IndexSegmentResponse;
import io.walindexer.kafka.v1.Indexer.IndexedPartition;
import java.io.ByteArrayOutputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.UnaryOperator;
import java.util.zip.CRC32C;

/** A gRPC server on a port of this machine that keeps copies in memory, and fails as a test tells it to. */
final class ScriptedWorker implements AutoCloseable {
    /** The copies by name. Several workers may share it. */
    static final class Store {
        private final Map<SegmentName, Copy> copies = new ConcurrentHashMap<>();
    }

    private static final class Copy {
        private byte[] segment;
        private final Map<String, byte[]> attachments = new ConcurrentHashMap<>();
    }

    final AtomicInteger copyCalls = new AtomicInteger();
    final AtomicInteger readCalls = new AtomicInteger();
    final AtomicInteger attachmentCalls = new AtomicInteger();
    final AtomicInteger deleteCalls = new AtomicInteger();
    final AtomicInteger readMessages = new AtomicInteger();
    final AtomicInteger cancelledCalls = new AtomicInteger();
    final AtomicInteger callsInFlight = new AtomicInteger();
    final List<String> authorizations = new CopyOnWriteArrayList<>();
    final List<CopyHeader> headers = new CopyOnWriteArrayList<>();
    final List<ReadSegmentRequest> reads = new CopyOnWriteArrayList<>();

    /** The next calls end at once with these errors, in order. */
    final Queue<StatusRuntimeException> failures = new ConcurrentLinkedQueue<>();
    /** Streams of reads end with these errors after {@link #failReadsAfterMessages} messages. */
    final Queue<StatusRuntimeException> readFailures = new ConcurrentLinkedQueue<>();
    volatile int failReadsAfterMessages = 2;
    volatile boolean hangs;
    /** Copies are taken no further than flow control allows without a reader. */
    volatile boolean stopsReading;
    volatile int hangReadsAfterMessages = Integer.MAX_VALUE;
    volatile int chunkBytes = 64 << 10;
    volatile UnaryOperator<CopySegmentResponse> editReceipt = UnaryOperator.identity();
    volatile UnaryOperator<ReadSegmentResponse> editRead = UnaryOperator.identity();
    volatile boolean repliesBeforeTheBytes;

    private final AtomicReference<ServerCallStreamObserver<CopySegmentResponse>> paused = new AtomicReference<>();
    private final Store store;
    private final Server server;

    ScriptedWorker() throws Exception {
        this(new Store());
    }

    ScriptedWorker(Store store) throws Exception {
        this(store, InsecureServerCredentials.create(), 0);
    }

    ScriptedWorker(Store store, ServerCredentials credentials, int port) throws Exception {
        this.store = store;
        this.server = OkHttpServerBuilder.forPort(port, credentials)
            .addService(ServerInterceptors.intercept(service(), new Observer()))
            .permitKeepAliveTime(1, TimeUnit.SECONDS)
            .build().start();
    }

    /** A worker without ArchiveService. */
    static Server older() throws Exception {
        return OkHttpServerBuilder.forPort(0, InsecureServerCredentials.create()).build().start();
    }

    String address() {
        return "127.0.0.1:" + server.getPort();
    }

    int port() {
        return server.getPort();
    }

    /** Takes the rest of the copy that came last. */
    void resumeReading() {
        paused.get().request(Integer.MAX_VALUE);
    }

    Store store() {
        return store;
    }

    int storedCopies() {
        return store.copies.size();
    }

    @Override
    public void close() {
        server.shutdownNow();
        try {
            server.awaitTermination(5, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    /** An error with the details that a worker sends. */
    static StatusRuntimeException error(Status.Code code, String reason, long retryDelayMs) {
        RpcStatus.Builder details = RpcStatus.newBuilder().setCode(code.value());
        details.addDetails(any("google.rpc.ErrorInfo",
            ErrorInfo.newBuilder().setReason(reason).setDomain("wal-indexer").build()));
        if (retryDelayMs > 0) {
            details.addDetails(any("google.rpc.RetryInfo", RetryInfo.newBuilder().setRetryDelay(Duration.newBuilder()
                .setSeconds(retryDelayMs / 1000).setNanos((int) (retryDelayMs % 1000) * 1_000_000)).build()));
        }
        Metadata trailers = new Metadata();
        trailers.put(Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER),
            details.build().toByteArray());
        return code.toStatus().withDescription("scripted").asRuntimeException(trailers);
    }

    private static Any any(String type, MessageLite message) {
        return Any.newBuilder().setTypeUrl("type.googleapis.com/" + type).setValue(message.toByteString()).build();
    }

    private ServerServiceDefinition service() {
        return ServerServiceDefinition.builder(ArchiveMethods.SERVICE)
            .addMethod(ArchiveMethods.COPY_SEGMENT, ServerCalls.asyncClientStreamingCall(this::copy))
            .addMethod(ArchiveMethods.READ_SEGMENT, ServerCalls.asyncServerStreamingCall(this::read))
            .addMethod(ArchiveMethods.READ_ATTACHMENT, ServerCalls.asyncServerStreamingCall(this::readAttachment))
            .addMethod(ArchiveMethods.DELETE_SEGMENT, ServerCalls.asyncUnaryCall(this::delete))
            .build();
    }

    private boolean failsOrHangs(StreamObserver<?> response) {
        StatusRuntimeException failure = failures.poll();
        if (failure != null) {
            response.onError(failure);
        }
        return failure != null || hangs;
    }

    private StreamObserver<CopySegmentRequest> copy(StreamObserver<CopySegmentResponse> response) {
        copyCalls.incrementAndGet();
        StatusRuntimeException failure = failures.poll();
        boolean ended = failure != null || hangs;
        if (stopsReading) {
            paused.set((ServerCallStreamObserver<CopySegmentResponse>) response);
            paused.get().disableAutoRequest();
        }
        return new StreamObserver<>() {
            private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            private CopyHeader header;

            @Override
            public void onNext(CopySegmentRequest request) {
                if (request.hasHeader()) {
                    header = request.getHeader();
                    headers.add(header);
                    if (repliesBeforeTheBytes && !ended) {
                        Copy known = store.copies.get(header.getName());
                        response.onNext(editReceipt.apply(receipt(header, known)));
                        response.onCompleted();
                    }
                } else {
                    request.getChunk().asReadOnlyByteBufferList().forEach(buffer -> {
                        byte[] chunk = new byte[buffer.remaining()];
                        buffer.get(chunk);
                        bytes.writeBytes(chunk);
                    });
                }
            }

            @Override
            public void onError(Throwable error) {
                // The caller has cancelled. It is counted where the call ends.
            }

            // Not before all bytes came: this server never gives back the connection's window for the others.
            @Override
            public void onCompleted() {
                if (failure != null) {
                    response.onError(failure);
                }
                if (!ended && !repliesBeforeTheBytes) {
                    Copy copy = cut(header, bytes.toByteArray());
                    store.copies.put(header.getName(), copy);
                    response.onNext(editReceipt.apply(receipt(header, copy)));
                    response.onCompleted();
                }
            }
        };
    }

    private static Copy cut(CopyHeader header, byte[] bytes) {
        Copy copy = new Copy();
        int at = (int) header.getSizeBytes();
        copy.segment = java.util.Arrays.copyOf(bytes, at);
        for (Attachment attachment : header.getAttachmentsList()) {
            int end = at + (int) attachment.getSizeBytes();
            copy.attachments.put(attachment.getName(), java.util.Arrays.copyOfRange(bytes, at, end));
            at = end;
        }
        if (at != bytes.length) {
            throw new IllegalArgumentException(bytes.length + " bytes came, " + at + " were announced");
        }
        return copy;
    }

    private static CopySegmentResponse receipt(CopyHeader header, Copy copy) {
        SegmentName name = header.getName();
        CopySegmentResponse.Builder response = CopySegmentResponse.newBuilder()
            .setLocator(ByteString.copyFromUtf8("locator-of-" + name.getBaseOffset()))
            .setReceipt(IndexSegmentResponse.newBuilder()
                .setBytesRead(copy.segment.length)
                .setCrc32C(crc32c(copy.segment))
                .addPartitions(IndexedPartition.newBuilder()
                    .setTopic(name.getTopic()).setPartition(name.getPartition()).setLogId(name.getLogId())
                    .setBundle(Bundle.newBuilder().setKey("bundle/of/" + name.getCopyId()))));
        for (Attachment attachment : header.getAttachmentsList()) {
            response.addAttachments(described(attachment.getName(), copy.attachments.get(attachment.getName())));
        }
        return response.build();
    }

    private void read(ReadSegmentRequest request, StreamObserver<ReadSegmentResponse> observer) {
        readCalls.incrementAndGet();
        reads.add(request);
        if (failsOrHangs(observer)) {
            return;
        }
        Copy copy = store.copies.get(request.getName());
        if (request.getName().getCopyId().isEmpty()) {
            observer.onError(error(Status.Code.INVALID_ARGUMENT, "NAME_MISSING", 0));
            return;
        }
        if (copy == null) {
            observer.onError(error(Status.Code.NOT_FOUND, "SEGMENT_NOT_FOUND", 0));
            return;
        }
        int end = request.hasEnd() ? (int) Math.min(request.getEnd(), copy.segment.length) : copy.segment.length;
        new Sender((ServerCallStreamObserver<ReadSegmentResponse>) observer, copy.segment,
            (int) request.getPosition(), end, readFailures.poll()).start();
    }

    /** Sends a segment no faster than the flow control of the stream asks for. */
    private final class Sender {
        private final ServerCallStreamObserver<ReadSegmentResponse> observer;
        private final byte[] segment;
        private final int end;
        private final StatusRuntimeException failure;
        private int at;
        private int messages;
        private boolean ended;

        Sender(ServerCallStreamObserver<ReadSegmentResponse> observer, byte[] segment, int at, int end,
                StatusRuntimeException failure) {
            this.observer = observer;
            this.segment = segment;
            this.at = at;
            this.end = end;
            this.failure = failure;
        }

        void start() {
            observer.setOnReadyHandler(this::send);
            send();
        }

        private synchronized void send() {
            while (!ended && observer.isReady() && messages < hangReadsAfterMessages) {
                if (failure != null && messages == failReadsAfterMessages) {
                    ended = true;
                    observer.onError(failure);
                } else if (at == end && messages > 0) {
                    ended = true;
                    observer.onCompleted();
                } else {
                    observer.onNext(editRead.apply(next()));
                    readMessages.incrementAndGet();
                }
            }
        }

        private ReadSegmentResponse next() {
            int size = Math.min(chunkBytes, end - at);
            ReadSegmentResponse.Builder message = ReadSegmentResponse.newBuilder()
                .setChunk(ByteString.copyFrom(segment, at, size));
            if (messages++ == 0) {
                message.setSegmentSizeBytes(segment.length);
            }
            at += size;
            return message.build();
        }
    }

    private void readAttachment(ReadAttachmentRequest request, StreamObserver<ReadAttachmentResponse> observer) {
        attachmentCalls.incrementAndGet();
        if (failsOrHangs(observer)) {
            return;
        }
        Copy copy = store.copies.get(request.getName());
        byte[] bytes = copy == null ? null : copy.attachments.get(request.getAttachment());
        if (bytes == null) {
            observer.onError(error(Status.Code.NOT_FOUND, "ATTACHMENT_NOT_FOUND", 0));
            return;
        }
        observer.onNext(ReadAttachmentResponse.newBuilder()
            .setAttachment(described(request.getAttachment(), bytes)).build());
        for (int at = 0; at < bytes.length; at += chunkBytes) {
            observer.onNext(ReadAttachmentResponse.newBuilder()
                .setChunk(ByteString.copyFrom(bytes, at, Math.min(chunkBytes, bytes.length - at))).build());
        }
        observer.onCompleted();
    }

    private void delete(DeleteSegmentRequest request, StreamObserver<DeleteSegmentResponse> observer) {
        deleteCalls.incrementAndGet();
        if (failsOrHangs(observer)) {
            return;
        }
        boolean deleted = store.copies.remove(request.getName()) == null;
        observer.onNext(DeleteSegmentResponse.newBuilder().setAlreadyDeleted(deleted).build());
        observer.onCompleted();
    }

    private static Attachment described(String name, byte[] bytes) {
        return Attachment.newBuilder().setName(name).setSizeBytes(bytes.length).setCrc32C(crc32c(bytes)).build();
    }

    static int crc32c(byte[] bytes) {
        CRC32C crc32c = new CRC32C();
        crc32c.update(bytes);
        return (int) crc32c.getValue();
    }

    /** Counts calls, and notes their tokens. */
    private final class Observer implements ServerInterceptor {
        @Override
        public <Q, R> ServerCall.Listener<Q> interceptCall(ServerCall<Q, R> call, Metadata callHeaders,
                ServerCallHandler<Q, R> next) {
            String token = callHeaders.get(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER));
            authorizations.add(String.valueOf(token));
            callsInFlight.incrementAndGet();
            return new ForwardingServerCallListener.SimpleForwardingServerCallListener<>(
                    next.startCall(call, callHeaders)) {
                @Override
                public void onCancel() {
                    callsInFlight.decrementAndGet();
                    cancelledCalls.incrementAndGet();
                    super.onCancel();
                }

                @Override
                public void onComplete() {
                    callsInFlight.decrementAndGet();
                    super.onComplete();
                }
            };
        }
    }
}
