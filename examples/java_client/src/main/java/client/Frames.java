package client;

import cmd_market_data.*;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.agrona.concurrent.UnsafeBuffer;

/**
 * Frames cut from a stream of bytes: the framing header (SOFH) tells where each ends, wherever the bytes come from.
 *
 * <p>The current frame's message is in {@link #buffer}, until {@link #next} is called again.
 */
abstract class Frames {
  static final int FRAMING = 6;
  static final int ENCODING_TYPE = 0xEB50;
  private static final int LIMIT = 64 << 20;

  final UnsafeBuffer buffer = new UnsafeBuffer(0, 0);
  final MessageHeaderDecoder header = new MessageHeaderDecoder();

  private ByteBuffer bytes = ByteBuffer.allocate(256 << 10).order(ByteOrder.BIG_ENDIAN); // up to position: what came
  private int from;

  /** Waits for bytes and puts some into {@link #room}; an IOException where none will come. */
  abstract void more() throws IOException;

  /** Returns where bytes go, with room for {@code size} of them at least. */
  final ByteBuffer room(int size) {
    if (bytes.remaining() < size) {
      bytes.flip().position(from);
      if (bytes.remaining() + size > bytes.capacity() / 2) {
        bytes = ByteBuffer.allocate(2 * (bytes.remaining() + size)).order(ByteOrder.BIG_ENDIAN).put(bytes);
      } else {
        bytes.compact();
      }
      from = 0;
    }
    return bytes;
  }

  /** Goes to the next frame; of other schemas it is an error, of unknown templates the caller's to skip. */
  final void next() throws IOException {
    int length = frame();
    while (length == 0 || bytes.position() - from < length) {
      more();
      length = frame();
    }
    buffer.wrap(bytes.array(), from + FRAMING, length - FRAMING);
    from += length;
    header.wrap(buffer, 0);
    if (header.schemaId() != MessageHeaderDecoder.SCHEMA_ID) {
      throw new IOException("message of schema " + header.schemaId());
    }
  }

  /** Goes on until a message of a template comes; what comes before it is passed over. */
  final void await(int template) throws IOException {
    do {
      next();
      check();
    } while (template() != template);
  }

  /** Throws where the current message ends the connection. */
  final void check() throws IOException {
    if (template() == RejectDecoder.TEMPLATE_ID) {
      RejectDecoder reject = new RejectDecoder().wrapAndApplyHeader(buffer, 0, header);
      throw new IOException("refused (" + reject.code() + "): " + reject.text() + " " + reject.hint());
    }
    if (template() == ByeDecoder.TEMPLATE_ID) {
      ByeDecoder bye = new ByeDecoder().wrapAndApplyHeader(buffer, 0, header);
      throw new IOException("the server closed the connection (" + bye.code() + "): " + bye.text());
    }
  }

  private int frame() throws IOException {
    if (bytes.position() - from < FRAMING) {
      return 0;
    }
    int length = bytes.getInt(from);
    int type = bytes.getShort(from + 4) & 0xFFFF;
    if (type != ENCODING_TYPE || length < FRAMING + MessageHeaderDecoder.ENCODED_LENGTH || length > LIMIT) {
      throw new IOException("no frame: type " + Integer.toHexString(type) + ", length " + length);
    }
    return length;
  }

  final int template() {
    return header.templateId();
  }

  final HelloDecoder hello() {
    return new HelloDecoder().wrapAndApplyHeader(buffer, 0, header);
  }

  final AckDecoder ack() {
    return new AckDecoder().wrapAndApplyHeader(buffer, 0, header);
  }

  final StreamGapDecoder streamGap() {
    return new StreamGapDecoder().wrapAndApplyHeader(buffer, 0, header);
  }

  final DivertedDecoder diverted() {
    return new DivertedDecoder().wrapAndApplyHeader(buffer, 0, header);
  }
}
