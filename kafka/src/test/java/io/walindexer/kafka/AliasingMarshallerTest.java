package io.walindexer.kafka;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.protobuf.ByteString;
import io.grpc.KnownLength;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.walindexer.kafka.v1.Archive.ReadSegmentResponse;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.util.Arrays;
import org.junit.jupiter.api.Test;

class AliasingMarshallerTest {
    private final AliasingMarshaller<ReadSegmentResponse> marshaller =
        new AliasingMarshaller<>(ReadSegmentResponse.getDefaultInstance());

    private static final class Known extends ByteArrayInputStream implements KnownLength {
        Known(byte[] bytes) {
            super(bytes);
        }
    }

    private static ReadSegmentResponse message(int bytes) {
        return ReadSegmentResponse.newBuilder()
            .setChunk(ByteString.copyFrom(new byte[bytes])).setSegmentSizeBytes(1L << 40).build();
    }

    @Test
    void a_message_is_read_as_it_was_written() {
        for (int bytes : new int[] {0, 1, 127, 128, 1 << 20}) {
            byte[] written = message(bytes).toByteArray();
            for (InputStream stream : new InputStream[] {new Known(written), new ByteArrayInputStream(written)}) {
                assertEquals(message(bytes), marshaller.parse(stream));
            }
            assertEquals(message(bytes), marshaller.parse(marshaller.stream(message(bytes))));
        }
    }

    @Test
    void bytes_that_are_no_message_are_an_error_of_the_call() {
        byte[] written = message(100).toByteArray();
        byte[] endOfGroup = {0x0c};
        for (byte[] broken : new byte[][] {Arrays.copyOf(written, written.length - 1), Arrays.copyOf(written, 50), endOfGroup}) {
            StatusRuntimeException failure =
                assertThrows(StatusRuntimeException.class, () -> marshaller.parse(new Known(broken)));
            assertEquals(Status.Code.INTERNAL, failure.getStatus().getCode());
        }
    }
}
