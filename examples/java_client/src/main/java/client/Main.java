package client;

import cmd_market_data.*;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

/** Logs in, subscribes, decodes COUNT records and prints a checksum of all of their fields as one JSON object. */
public final class Main {
  private static final int LOGIN_REQUEST = 0;
  private static final int SUBSCRIBE_REQUEST = 1;

  private Main() {}

  public static void main(String[] args) {
    if (args.length < 4) {
      System.err.println("usage: java -jar java-client.jar HOST PORT COUNT TOPIC...   (the token is taken from CMD_TOKEN)");
      System.exit(2);
    }
    try {
      List<String> topics = new ArrayList<>(List.of(args).subList(3, args.length));
      System.out.println(run(args[0], Integer.parseInt(args[1]), Long.parseLong(args[2]), topics));
    } catch (NumberFormatException error) {
      System.err.println("error: PORT and COUNT are numbers: " + error.getMessage());
      System.exit(2);
    } catch (IOException error) {
      System.err.println("error: " + error.getMessage());
      System.exit(1);
    }
  }

  private static String run(String host, int port, long count, List<String> topics) throws IOException {
    String token = System.getenv().getOrDefault("CMD_TOKEN", "");
    Checksum checksum = new Checksum();
    try (Connection connection = new Connection(host, port)) {
      long heartbeat = Long.MAX_VALUE;
      long pinged = System.nanoTime();
      while (checksum.messages() < count) {
        connection.next();
        switch (connection.template()) {
          case HelloDecoder.TEMPLATE_ID -> {
            heartbeat = connection.hello().heartbeat();
            connection.login(token, "java-client");
            connection.subscribe(SUBSCRIBE_REQUEST, topics);
          }
          case AckDecoder.TEMPLATE_ID -> {
            AckDecoder ack = connection.ack();
            if (ack.requestId() != LOGIN_REQUEST) {
              System.err.println("subscribed; " + ack.streams() + " streams match now");
            }
          }
          case RejectDecoder.TEMPLATE_ID -> {
            RejectDecoder reject = connection.reject();
            throw new IOException("refused (" + reject.code() + "): " + reject.text() + " " + reject.hint());
          }
          case ByeDecoder.TEMPLATE_ID -> {
            ByeDecoder bye = connection.bye();
            throw new IOException("the server closed the connection (" + bye.code() + "): " + bye.text());
          }
          case StreamGapDecoder.TEMPLATE_ID -> {
            StreamGapDecoder gap = connection.streamGap();
            System.err.println("lost: messages " + gap.fromSeq() + " to " + gap.toSeq() + " of kind " + gap.kind());
          }
          // Adds what it knows; heartbeats and the messages of newer servers are passed over.
          default -> checksum.add(connection);
        }
        // The server says something at least every heartbeat, so this is reached often enough.
        if (System.nanoTime() - pinged > heartbeat / 2) {
          pinged = System.nanoTime();
          connection.ping();
        }
      }
    }
    return checksum.toString();
  }
}
