package client;

import cmd_market_data.*;
import java.io.Closeable;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.SocketChannel;
import java.nio.channels.UnresolvedAddressException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.agrona.concurrent.UnsafeBuffer;

/** One TCP or Unix connection: frames come in, requests go out. One thread may read while another sends. */
final class Connection extends Frames implements Closeable {
  private final SocketChannel channel;
  private final UnsafeBuffer out = new UnsafeBuffer(new byte[64 << 10]);
  private final MessageHeaderEncoder outHeader = new MessageHeaderEncoder();

  Connection(Address address) throws IOException {
    SocketAddress to = address.socket();
    try {
      channel = SocketChannel.open(to);
    } catch (IOException | UnresolvedAddressException error) {
      throw new IOException("no server at " + address + ": " + error.getMessage(), error);
    }
    if (to instanceof InetSocketAddress) {
      channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
    }
  }

  @Override
  void more() throws IOException {
    if (channel.read(room(32 << 10)) < 0) {
      throw new IOException("the server closed the connection");
    }
  }

  void login(String token, String client) throws IOException {
    LoginEncoder message = new LoginEncoder().wrapAndApplyHeader(out, FRAMING, outHeader);
    clear(message.common(), 0);
    message.token(token).client(client);
    send(message.encodedLength());
  }

  /** Asks the server to send everything to another address; its answer is Diverted, or Reject. */
  void divert(int request, String to) throws IOException {
    DivertEncoder message = new DivertEncoder().wrapAndApplyHeader(out, FRAMING, outHeader);
    clear(message.common(), 0);
    message.requestId(request).to(to);
    send(message.encodedLength());
  }

  /** Asks for every message: a client that is too slow is let go instead of being given a summary. */
  void subscribe(int request, List<String> topics) throws IOException {
    SubscribeEncoder message = new SubscribeEncoder().wrapAndApplyHeader(out, FRAMING, outHeader);
    clear(message.common(), 0);
    message.requestId(request).queue(100_000).policy(Policy.DISCONNECT);
    SubscribeEncoder.TopicsEncoder group = message.topicsCount(topics.size());
    for (String topic : topics) {
      byte[] text = topic.getBytes(StandardCharsets.UTF_8);
      group.next().putTopic(text, 0, text.length);
    }
    send(message.encodedLength());
  }

  void ping() throws IOException {
    PingEncoder message = new PingEncoder().wrapAndApplyHeader(out, FRAMING, outHeader);
    clear(message.common(), System.currentTimeMillis() * 1_000_000L);
    send(message.encodedLength());
  }

  /** Fields that are not set keep old bytes of the buffer: all of them are set. */
  private static void clear(CommonEncoder common, long time) {
    common.seq(0).tsEvent(time).tsRecv(0).instrumentId(0).view(0).bookState(BookState.NONE);
    common.flags().clear();
  }

  private void send(int body) throws IOException {
    int frame = FRAMING + MessageHeaderEncoder.ENCODED_LENGTH + body;
    out.putInt(0, frame, ByteOrder.BIG_ENDIAN);
    out.putShort(4, (short) ENCODING_TYPE, ByteOrder.BIG_ENDIAN);
    ByteBuffer bytes = ByteBuffer.wrap(out.byteArray(), 0, frame);
    while (bytes.hasRemaining()) {
      channel.write(bytes);
    }
  }

  @Override
  public void close() throws IOException {
    channel.close();
  }
}
