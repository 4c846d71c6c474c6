package client;

import io.aeron.CommonContext;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.URLDecoder;
import java.net.UnixDomainSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

/**
 * Where a server is, written as for every other client: {@code tcp:HOST:PORT}, {@code unix:PATH},
 * {@code aeron:ipc?control=...} or {@code aeron:udp?control=...&endpoint=...}; options are split at {@code &}.
 */
record Address(String scheme, String target, Map<String, String> options) {
  static Address parse(String text) throws IOException {
    int colon = text.indexOf(':');
    int question = text.indexOf('?');
    int end = question < 0 ? text.length() : question;
    if (colon < 1 || colon + 1 >= end) {
      throw new IOException("\"" + text + "\" is no address; write it as tcp:HOST:PORT, unix:PATH or aeron:ipc?control=...");
    }
    Map<String, String> options = new HashMap<>();
    if (question >= 0) {
      for (String pair : text.substring(question + 1).split("&")) {
        int equals = pair.indexOf('=');
        if (equals < 1) {
          throw new IOException("\"" + pair + "\" is no option of an address; write it as key=value");
        }
        options.put(pair.substring(0, equals), decoded(pair.substring(equals + 1)));
      }
    }
    return new Address(text.substring(0, colon), text.substring(colon + 1, end), options);
  }

  /** A percent sign is followed by two hexadecimal digits; a plus is a plus. */
  private static String decoded(String value) throws IOException {
    try {
      return URLDecoder.decode(value.replace("+", "%2B"), StandardCharsets.UTF_8);
    } catch (IllegalArgumentException error) {
      throw new IOException("\"" + value + "\" is no value of an option: " + error.getMessage());
    }
  }

  boolean aeron() {
    return scheme.equals("aeron");
  }

  /** Directory of the media driver; what Aeron itself takes where none is given. */
  String directory() {
    return options.getOrDefault("dir", CommonContext.getAeronDirectoryName());
  }

  /** The stream connection by which requests go. */
  Address control() throws IOException {
    if (!aeron()) {
      return this;
    }
    String text = options.get("control");
    if (text == null && target.equals("ipc")) {
      text = "unix:" + directory() + ".control";
    }
    if (text == null) {
      throw new IOException("the address names no control; add control=tcp:HOST:PORT");
    }
    return parse(text);
  }

  int number(String key, int otherwise) throws IOException {
    String text = options.get(key);
    try {
      return text == null ? otherwise : Integer.parseInt(text);
    } catch (NumberFormatException error) {
      throw new IOException(key + "=" + text + " is no number");
    }
  }

  SocketAddress socket() throws IOException {
    int colon = target.lastIndexOf(':');
    try {
      if (scheme.equals("unix")) {
        return UnixDomainSocketAddress.of(Path.of(target));
      }
      if (scheme.equals("tcp") && colon > 0) {
        String host = target.substring(0, colon).replaceAll("[\\[\\]]", "");
        return new InetSocketAddress(host, Integer.parseInt(target.substring(colon + 1)));
      }
    } catch (IllegalArgumentException error) { // among them: a port that is no number
      throw new IOException("\"" + this + "\" is no address: " + error.getMessage());
    }
    throw new IOException("\"" + this + "\" is no stream address; write it as tcp:HOST:PORT or unix:PATH");
  }

  @Override
  public String toString() {
    return scheme + ":" + target;
  }
}
