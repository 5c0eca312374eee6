package io.walindexer.kafka;

import com.google.protobuf.MessageLite;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.protobuf.lite.ProtoLiteUtils;
import io.walindexer.kafka.v1.Archive.CopySegmentRequest;
import io.walindexer.kafka.v1.Archive.CopySegmentResponse;
import io.walindexer.kafka.v1.Archive.DeleteSegmentRequest;
import io.walindexer.kafka.v1.Archive.DeleteSegmentResponse;
import io.walindexer.kafka.v1.Archive.ReadAttachmentRequest;
import io.walindexer.kafka.v1.Archive.ReadAttachmentResponse;
import io.walindexer.kafka.v1.Archive.ReadSegmentRequest;
import io.walindexer.kafka.v1.Archive.ReadSegmentResponse;

/** The methods of {@code walindexer.v1.ArchiveService}, as in {@code proto/walindexer/v1/archive.proto}. */
final class ArchiveMethods {
    static final String SERVICE = "walindexer.v1.ArchiveService";

    static final MethodDescriptor<CopySegmentRequest, CopySegmentResponse> COPY_SEGMENT =
        method("CopySegment", MethodType.CLIENT_STREAMING, CopySegmentRequest.getDefaultInstance(),
            CopySegmentResponse.getDefaultInstance());

    static final MethodDescriptor<ReadSegmentRequest, ReadSegmentResponse> READ_SEGMENT =
        method("ReadSegment", MethodType.SERVER_STREAMING, ReadSegmentRequest.getDefaultInstance(),
            ReadSegmentResponse.getDefaultInstance()).toBuilder()
            .setResponseMarshaller(new AliasingMarshaller<>(ReadSegmentResponse.getDefaultInstance())).build();

    static final MethodDescriptor<ReadAttachmentRequest, ReadAttachmentResponse> READ_ATTACHMENT =
        method("ReadAttachment", MethodType.SERVER_STREAMING, ReadAttachmentRequest.getDefaultInstance(),
            ReadAttachmentResponse.getDefaultInstance());

    static final MethodDescriptor<DeleteSegmentRequest, DeleteSegmentResponse> DELETE_SEGMENT =
        method("DeleteSegment", MethodType.UNARY, DeleteSegmentRequest.getDefaultInstance(),
            DeleteSegmentResponse.getDefaultInstance());

    private ArchiveMethods() {
    }

    private static <Q extends MessageLite, R extends MessageLite> MethodDescriptor<Q, R> method(
            String name, MethodType type, Q request, R response) {
        return MethodDescriptor.<Q, R>newBuilder()
            .setType(type)
            .setFullMethodName(MethodDescriptor.generateFullMethodName(SERVICE, name))
            .setRequestMarshaller(ProtoLiteUtils.marshaller(request))
            .setResponseMarshaller(ProtoLiteUtils.marshaller(response))
            .build();
    }
}
