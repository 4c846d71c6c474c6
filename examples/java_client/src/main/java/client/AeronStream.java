package client;

import cmd_market_data.DivertedDecoder;
import io.aeron.Aeron;
import io.aeron.Image;
import io.aeron.ImageFragmentAssembler;
import io.aeron.Subscription;
import io.aeron.exceptions.DriverTimeoutException;
import java.io.Closeable;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.BooleanSupplier;
import org.agrona.CloseHelper;
import org.agrona.concurrent.BackoffIdleStrategy;
import org.agrona.concurrent.IdleStrategy;

/**
 * Frames that the server sends over Aeron, while requests, and the end, go by a connection.
 *
 * <p>The client asks for it with Divert, and Diverted names stream and session of a publication made for this client
 * alone; nothing else is read. A message of Aeron holds one or more frames, and a frame longer than the longest message
 * comes in several: they are read as one stream of bytes.
 */
final class AeronStream extends Frames implements Closeable {
  private static final int FRAGMENTS = 16; // taken at once
  private static final int STREAM = 10_000; // over UDP, where the endpoint is this client's alone
  private static final long PATIENCE = 10_000_000_000L; // ns for the driver and the server
  private static final long LAST = 1_000_000_000L; // ns without a message, after the end, until nothing more comes

  private final IdleStrategy idle = new BackoffIdleStrategy(100, 10, 1_000, 100_000);
  private final Aeron aeron;
  private Image image;
  private ImageFragmentAssembler assembler;
  private volatile Throwable failure; // of Aeron's own thread
  private volatile IOException ended; // what control ended with

  /** Moves what {@code control}, which is logged in, would receive; from now on it reads nothing but the end there. */
  AeronStream(Address address, Connection control, int request) throws IOException {
    if (!address.target().equals("ipc") && !address.target().equals("udp")) {
      throw new IOException("\"" + address + "\" is no address; write it as aeron:ipc or aeron:udp");
    }
    if (!Files.exists(Path.of(address.directory(), "cnc.dat"))) {
      throw new IOException("no media driver runs in " + address.directory());
    }
    try {
      aeron = Aeron.connect(new Aeron.Context()
          .aeronDirectoryName(address.directory())
          .driverTimeoutMs(PATIENCE / 1_000_000)
          .errorHandler(error -> failure = error));
    } catch (DriverTimeoutException error) {
      throw new IOException("no media driver runs in " + address.directory(), error);
    }
    try {
      open(address, control, request);
    } catch (IOException | RuntimeException error) {
      aeron.close();
      throw error;
    }
  }

  private void open(Address address, Connection control, int request) throws IOException {
    Subscription subscription = null;
    String to = "aeron:ipc";
    if (address.target().equals("udp")) {
      // The receiver comes first: the server sends to where it is told.
      int stream = address.number("stream", STREAM);
      String endpoint = address.options().getOrDefault("endpoint", "127.0.0.1:0");
      Subscription udp = aeron.addSubscription("aeron:udp?endpoint=" + endpoint, stream);
      until(() -> udp.resolvedEndpoint() != null, "the driver does not tell the port of " + endpoint);
      to = "aeron:udp?endpoint=" + udp.resolvedEndpoint() + "&stream=" + stream;
      subscription = udp;
    }
    control.divert(request, to);
    control.await(DivertedDecoder.TEMPLATE_ID);
    Address from = Address.parse(control.diverted().to());
    int session = from.number("session", 0);
    if (subscription == null) {
      subscription = aeron.addSubscription("aeron:ipc?session-id=" + session, from.number("stream", 0));
    }
    Thread reader = new Thread(() -> watch(control), "control");
    reader.setDaemon(true);
    reader.start();
    Subscription found = subscription;
    until(() -> found.imageBySessionId(session) != null, "the server's publication " + from + " does not come");
    image = subscription.imageBySessionId(session);
    assembler = new ImageFragmentAssembler((buffer, offset, length, header) -> buffer.getBytes(offset, room(length), length));
  }

  /** Reads control to its end. */
  private void watch(Connection control) {
    try {
      while (true) {
        control.next();
        control.check();
      }
    } catch (IOException error) {
      ended = error;
    }
  }

  @Override
  void more() throws IOException {
    idle.reset();
    long quiet = 0;
    while (true) {
      IOException last = ended; // read before the poll: all that was sent before the end is there over IPC
      boolean over = image.isClosed() || image.isEndOfStream();
      if (image.poll(assembler, FRAGMENTS) > 0) {
        // Fragments of a message that is not whole yet count too; then the caller comes again.
        return;
      }
      if (failure != null || aeron.isClosed()) {
        throw new IOException(failure == null ? "the media driver is gone" : "Aeron: " + failure.getMessage(), failure);
      }
      if (last != null || over) {
        quiet = quiet == 0 ? System.nanoTime() : quiet;
        if (over && last != null || System.nanoTime() - quiet > LAST) {
          throw last != null ? last : new IOException("the server's publication has ended");
        }
      }
      idle.idle();
    }
  }

  private void until(BooleanSupplier done, String otherwise) throws IOException {
    long start = System.nanoTime();
    idle.reset();
    while (!done.getAsBoolean()) {
      if (ended != null) {
        throw ended;
      }
      if (failure != null || System.nanoTime() - start > PATIENCE) {
        throw new IOException(failure == null ? otherwise : "Aeron: " + failure.getMessage(), failure);
      }
      idle.idle();
    }
  }

  @Override
  public void close() {
    CloseHelper.quietClose(aeron);
  }
}
