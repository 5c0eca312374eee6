package io.walindexer.kafka;

import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import io.grpc.util.AdvancedTlsX509KeyManager;
import io.grpc.util.AdvancedTlsX509TrustManager;
import java.io.IOException;
import java.security.GeneralSecurityException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The TLS files of the configuration. New connections use what the files hold when they are opened. */
final class TlsFiles {
    private static final Logger LOG = LoggerFactory.getLogger(TlsFiles.class);

    private final WatchedFile ca;
    private final WatchedFile certificate;
    private final WatchedFile key;
    private final AdvancedTlsX509TrustManager trustManager;
    private final AdvancedTlsX509KeyManager keyManager;
    private boolean failing;

    /** Reads the files. A path may be null: the system's authorities, or no certificate of the broker's own. */
    TlsFiles(String caPath, String certificatePath, String keyPath) throws IOException, GeneralSecurityException {
        ca = caPath == null ? null : new WatchedFile(caPath);
        certificate = certificatePath == null ? null : new WatchedFile(certificatePath);
        key = keyPath == null ? null : new WatchedFile(keyPath);
        trustManager = AdvancedTlsX509TrustManager.newBuilder().build();
        keyManager = certificate == null ? null : new AdvancedTlsX509KeyManager();
        if (ca == null) {
            trustManager.useSystemDefaultTrustCerts();
        }
        readChanged();
    }

    ChannelCredentials credentials() {
        TlsChannelCredentials.Builder credentials = TlsChannelCredentials.newBuilder().trustManager(trustManager);
        if (keyManager != null) {
            credentials.keyManager(keyManager);
        }
        return credentials.build();
    }

    /** Reads the files that have changed. If that fails, what was read before stays in use. */
    synchronized void refresh() {
        try {
            readChanged();
            failing = false;
        } catch (IOException | GeneralSecurityException | RuntimeException e) {
            if (!failing) {
                LOG.error("cannot read the TLS files again, so the last ones are used: {}", e.toString());
            }
            failing = true;
        }
    }

    private void readChanged() throws IOException, GeneralSecurityException {
        if (ca != null && ca.hasChanged()) {
            Object version = ca.version();
            trustManager.updateTrustCredentials(ca.path().toFile());
            ca.markSeen(version);
        }
        if (certificate != null && (certificate.hasChanged() || key.hasChanged())) {
            Object certificateVersion = certificate.version();
            Object keyVersion = key.version();
            keyManager.updateIdentityCredentials(certificate.path().toFile(), key.path().toFile());
            certificate.markSeen(certificateVersion);
            key.markSeen(keyVersion);
        }
    }
}
