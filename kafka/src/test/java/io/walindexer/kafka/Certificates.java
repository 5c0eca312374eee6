package io.walindexer.kafka;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;

/** An authority and the certificates that it issues, made by the JDK's keytool. */
final class Certificates {
    private static final String PASSWORD = "password";

    private final Path folder;
    private final String authority;

    Certificates(Path folder, String authority) throws Exception {
        this.folder = folder;
        this.authority = authority;
        keytool("-genkeypair", "-alias", authority, "-dname", "CN=" + authority, "-ext", "bc=ca:true",
            "-keyalg", "EC", "-keystore", store(authority));
        writePem(authority, "CERTIFICATE", keyStore(authority).getCertificate(authority).getEncoded());
    }

    /** The authority's certificate. */
    Path ca() {
        return folder.resolve(authority + ".CERTIFICATE");
    }

    Path certificate(String name) {
        return folder.resolve(name + ".CERTIFICATE");
    }

    Path key(String name) {
        return folder.resolve(name + ".PRIVATE KEY");
    }

    /** Issues a certificate for the address 127.0.0.1. */
    Certificates issue(String name) throws Exception {
        return issue(name, "san=ip:127.0.0.1");
    }

    Certificates issue(String name, String subjectAlternativeName) throws Exception {
        keytool("-genkeypair", "-alias", name, "-dname", "CN=" + name, "-keyalg", "EC", "-keystore", store(name));
        Path request = folder.resolve(name + ".csr");
        keytool("-certreq", "-alias", name, "-file", request.toString(), "-keystore", store(name));
        keytool("-gencert", "-alias", authority, "-infile", request.toString(), "-outfile",
            certificate(name).toString(), "-rfc", "-ext", subjectAlternativeName, "-keystore", store(authority));
        writePem(name, "PRIVATE KEY", keyStore(name).getKey(name, PASSWORD.toCharArray()).getEncoded());
        return this;
    }

    private String store(String name) {
        return folder.resolve(name + ".p12").toString();
    }

    private KeyStore keyStore(String name) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (InputStream bytes = Files.newInputStream(Path.of(store(name)))) {
            store.load(bytes, PASSWORD.toCharArray());
        }
        return store;
    }

    private void writePem(String name, String type, byte[] encoded) throws IOException {
        Files.writeString(folder.resolve(name + "." + type), "-----BEGIN " + type + "-----\n"
            + Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(encoded) + "\n-----END " + type + "-----\n");
    }

    private static void keytool(String... arguments) throws Exception {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "keytool").toString());
        command.addAll(List.of(arguments));
        command.addAll(List.of("-storepass", PASSWORD, "-storetype", "PKCS12"));
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        if (process.waitFor() != 0) {
            throw new IOException(String.join(" ", command) + ": " + output);
        }
    }
}
