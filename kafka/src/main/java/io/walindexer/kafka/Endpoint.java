package io.walindexer.kafka;

import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URISyntaxException;
import java.util.Objects;

/** A host and a port of the configuration. The host may be a name with several addresses. */
final class Endpoint {
    private final String host;
    private final int port;

    private Endpoint(String host, int port) {
        this.host = host;
        this.port = port;
    }

    /** Parses {@code host:port}; an IPv6 address is in brackets. */
    static Endpoint parse(String text) {
        try {
            URI uri = new URI("tcp://" + text.trim()).parseServerAuthority();
            String rest = uri.getRawPath() + Objects.toString(uri.getRawQuery(), "")
                + Objects.toString(uri.getRawFragment(), "") + Objects.toString(uri.getRawUserInfo(), "");
            if (uri.getHost() != null && uri.getPort() > 0 && uri.getPort() <= 65535 && rest.isEmpty()) {
                return new Endpoint(uri.getHost(), uri.getPort());
            }
        } catch (URISyntaxException e) {
            throw new IllegalArgumentException("\"" + text + "\" is not host:port", e);
        }
        throw new IllegalArgumentException("\"" + text + "\" is not host:port");
    }

    /** The name to look up. */
    String host() {
        return host.startsWith("[") ? host.substring(1, host.length() - 1) : host;
    }

    /** The name that the worker's certificate must contain, and the port. */
    String authority() {
        return host + ":" + port;
    }

    InetSocketAddress at(java.net.InetAddress address) {
        return new InetSocketAddress(address, port);
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Endpoint && authority().equals(((Endpoint) other).authority());
    }

    @Override
    public int hashCode() {
        return authority().hashCode();
    }

    @Override
    public String toString() {
        return authority();
    }
}
