package client;

import cmd_market_data.*;
import java.io.BufferedInputStream;
import java.io.Closeable;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.OutputStream;
import java.net.Socket;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.agrona.concurrent.UnsafeBuffer;

/** One TCP connection: frames in and out. The current frame's message is in {@link #buffer}. */
final class Connection implements Closeable {
  private static final int FRAMING = 6;
  private static final int ENCODING_TYPE = 0xEB50;
  private static final int LIMIT = 64 << 20;

  final UnsafeBuffer buffer = new UnsafeBuffer(new byte[64 << 10]);
  final MessageHeaderDecoder header = new MessageHeaderDecoder();

  private final Socket socket;
  private final DataInputStream input;
  private final OutputStream output;
  private final UnsafeBuffer out = new UnsafeBuffer(new byte[64 << 10]);
  private final MessageHeaderEncoder outHeader = new MessageHeaderEncoder();
  private int length;

  Connection(String host, int port) throws IOException {
    socket = new Socket(host, port);
    socket.setTcpNoDelay(true);
    input = new DataInputStream(new BufferedInputStream(socket.getInputStream(), 256 << 10));
    output = socket.getOutputStream();
  }

  /** Reads the next frame; frames of other schemas are an error, those of unknown templates the caller's to skip. */
  void next() throws IOException {
    try {
      int frame = input.readInt(); // DataInputStream is big-endian, as the framing header is
      int type = input.readUnsignedShort();
      if (type != ENCODING_TYPE || frame < FRAMING + MessageHeaderDecoder.ENCODED_LENGTH || frame > LIMIT) {
        throw new IOException("no frame: type " + Integer.toHexString(type) + ", length " + frame);
      }
      length = frame - FRAMING;
      if (buffer.capacity() < length) {
        buffer.wrap(new byte[Math.max(length, 2 * buffer.capacity())]);
      }
      input.readFully(buffer.byteArray(), 0, length);
    } catch (EOFException error) {
      throw new IOException("the server closed the connection", error);
    }
    header.wrap(buffer, 0);
    if (header.schemaId() != MessageHeaderDecoder.SCHEMA_ID) {
      throw new IOException("message of schema " + header.schemaId());
    }
  }

  int template() {
    return header.templateId();
  }

  HelloDecoder hello() {
    return new HelloDecoder().wrapAndApplyHeader(buffer, 0, header);
  }

  AckDecoder ack() {
    return new AckDecoder().wrapAndApplyHeader(buffer, 0, header);
  }

  RejectDecoder reject() {
    return new RejectDecoder().wrapAndApplyHeader(buffer, 0, header);
  }

  ByeDecoder bye() {
    return new ByeDecoder().wrapAndApplyHeader(buffer, 0, header);
  }

  StreamGapDecoder streamGap() {
    return new StreamGapDecoder().wrapAndApplyHeader(buffer, 0, header);
  }

  void login(String token, String client) throws IOException {
    LoginEncoder message = new LoginEncoder().wrapAndApplyHeader(out, FRAMING, outHeader);
    clear(message.common(), 0);
    message.token(token).client(client);
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
    output.write(out.byteArray(), 0, frame);
    output.flush();
  }

  @Override
  public void close() throws IOException {
    socket.close();
  }
}
