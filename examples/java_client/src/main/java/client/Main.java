package client;

import cmd_market_data.*;
import io.aeron.exceptions.AeronException;
import java.io.IOException;
import java.util.List;

/** Logs in, subscribes, decodes COUNT records and prints a checksum of all of their fields as one JSON object. */
public final class Main {
  private static final int LOGIN_REQUEST = 0;
  private static final int SUBSCRIBE_REQUEST = 1;
  private static final int DIVERT_REQUEST = 2;

  private Main() {}

  public static void main(String[] args) {
    if (args.length < 3) {
      System.err.println("usage: java -jar java-client.jar ADDRESS COUNT TOPIC...   (the token is taken from CMD_TOKEN)");
      System.exit(2);
    }
    try {
      System.out.println(run(args[0], Long.parseLong(args[1]), List.of(args).subList(2, args.length)));
    } catch (NumberFormatException error) {
      System.err.println("error: COUNT is a number: " + error.getMessage());
      System.exit(2);
    } catch (IOException | AeronException error) {
      System.err.println("error: " + error.getMessage());
      System.exit(1);
    }
  }

  private static String run(String where, long count, List<String> topics) throws IOException {
    Address address = Address.parse(where);
    String token = System.getenv().getOrDefault("CMD_TOKEN", "");
    try (Connection connection = new Connection(address.control())) {
      connection.await(HelloDecoder.TEMPLATE_ID);
      long heartbeat = connection.hello().heartbeat();
      connection.login(token, "java-client");
      if (!address.aeron()) {
        return read(connection, connection, heartbeat, count, topics);
      }
      try (AeronStream stream = new AeronStream(address, connection, DIVERT_REQUEST)) {
        return read(stream, connection, heartbeat, count, topics);
      }
    }
  }

  /** Subscribes over {@code connection} and reads what comes by {@code frames}, which is where the server sends to. */
  private static String read(Frames frames, Connection connection, long heartbeat, long count, List<String> topics)
      throws IOException {
    Checksum checksum = new Checksum();
    connection.subscribe(SUBSCRIBE_REQUEST, topics);
    long pinged = System.nanoTime();
    while (checksum.messages() < count) {
      frames.next();
      frames.check();
      switch (frames.template()) {
        case AckDecoder.TEMPLATE_ID -> {
          AckDecoder ack = frames.ack();
          if (ack.requestId() != LOGIN_REQUEST) {
            System.err.println("subscribed; " + ack.streams() + " streams match now");
          }
        }
        case StreamGapDecoder.TEMPLATE_ID -> {
          StreamGapDecoder gap = frames.streamGap();
          System.err.println("lost: messages " + gap.fromSeq() + " to " + gap.toSeq() + " of kind " + gap.kind());
        }
        // Adds what it knows; heartbeats and the messages of newer servers are passed over.
        default -> checksum.add(frames);
      }
      // The server says something at least every heartbeat, so this is reached often enough.
      if (System.nanoTime() - pinged > heartbeat / 2) {
        pinged = System.nanoTime();
        connection.ping();
      }
    }
    return checksum.toString();
  }
}
