package io.walindexer.kafka;

import com.google.protobuf.CodedInputStream;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.MessageLite;
import com.google.protobuf.Parser;
import com.google.protobuf.UnsafeByteOperations;
import io.grpc.KnownLength;
import io.grpc.MethodDescriptor.Marshaller;
import io.grpc.Status;
import io.grpc.protobuf.lite.ProtoLiteUtils;
import java.io.IOException;
import java.io.InputStream;

/**
 * Reads a message into one array, and lets its bytes fields refer to that array. gRPC's own marshaller copies them
 * once more, which costs time where a message is a piece of a segment.
 */
final class AliasingMarshaller<T extends MessageLite> implements Marshaller<T> {
    private final Marshaller<T> marshaller;
    private final Parser<T> parser;

    @SuppressWarnings("unchecked")
    AliasingMarshaller(T defaultInstance) {
        marshaller = ProtoLiteUtils.marshaller(defaultInstance);
        parser = (Parser<T>) defaultInstance.getParserForType();
    }

    @Override
    public InputStream stream(T message) {
        return marshaller.stream(message);
    }

    @Override
    public T parse(InputStream stream) {
        try {
            CodedInputStream input = UnsafeByteOperations.unsafeWrap(readAll(stream)).newCodedInput();
            input.enableAliasing(true);
            T message = parser.parseFrom(input);
            input.checkLastTagWas(0);
            return message;
        } catch (InvalidProtocolBufferException e) {
            throw Status.INTERNAL.withDescription("the message is not valid protobuf").withCause(e).asRuntimeException();
        } catch (IOException e) {
            throw Status.INTERNAL.withDescription("the message cannot be read").withCause(e).asRuntimeException();
        }
    }

    // All messages without compression say how long they are.
    private static byte[] readAll(InputStream stream) throws IOException {
        if (!(stream instanceof KnownLength)) {
            return stream.readAllBytes();
        }
        byte[] bytes = new byte[stream.available()];
        stream.readNBytes(bytes, 0, bytes.length);
        return bytes;
    }
}
