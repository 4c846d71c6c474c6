package client;

import cmd_market_data.*;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.zip.CRC32;

/**
 * A CRC-32 over every field of every record, in the order of the schema; checksum.py does the same.
 *
 * <p>Numbers are 8 bytes, little-endian (doubles by their bits), texts their length and their UTF-8 bytes, groups
 * their count and their entries.
 */
final class Checksum {
  private final CRC32 crc = new CRC32();
  private final Map<Integer, Long> counts = new TreeMap<>();
  private final InstrumentDecoder instrument = new InstrumentDecoder();
  private final TradeDecoder trade = new TradeDecoder();
  private final AggTradeDecoder aggTrade = new AggTradeDecoder();
  private final QuoteDecoder quote = new QuoteDecoder();
  private final BookSnapshotDecoder snapshot = new BookSnapshotDecoder();
  private final BookDeltaDecoder delta = new BookDeltaDecoder();
  private final CandleDecoder candle = new CandleDecoder();
  private final AggregatedBookDecoder aggregated = new AggregatedBookDecoder();
  private final StatusDecoder status = new StatusDecoder();
  private final GapDecoder gap = new GapDecoder();
  private ByteBuffer bytes = ByteBuffer.allocate(64 << 10).order(ByteOrder.LITTLE_ENDIAN);
  private long messages;

  long messages() {
    return messages;
  }

  /** Adds the current message if it is a record; skips everything else. */
  void add(Frames c) {
    bytes.clear();
    switch (c.template()) {
      case InstrumentDecoder.TEMPLATE_ID -> {
        InstrumentDecoder m = instrument.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        number(m.expiry()).number(m.inverseRaw());
        text(m.venue()).text(m.symbol()).text(m.baseAsset()).text(m.quoteAsset()).text(m.settleAsset()).text(m.kind());
        text(m.tickSize()).text(m.lotSize()).text(m.minQuantity()).text(m.minNotional()).text(m.contractSize());
        text(m.status());
      }
      case TradeDecoder.TEMPLATE_ID -> {
        TradeDecoder m = trade.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        number(m.price()).number(m.quantity()).number(m.tradeSeq()).number(m.sideRaw());
        text(m.idIsNumber() == Bool.YES ? Long.toString(m.tradeSeq()) : m.tradeId());
      }
      case AggTradeDecoder.TEMPLATE_ID -> {
        AggTradeDecoder m = aggTrade.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        number(m.price()).number(m.quantity()).number(m.tradeSeq());
        number(m.firstTradeId()).number(m.lastTradeId()).number(m.sideRaw());
        text(m.idIsNumber() == Bool.YES ? Long.toString(m.tradeSeq()) : m.tradeId());
      }
      case QuoteDecoder.TEMPLATE_ID -> {
        QuoteDecoder m = quote.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        number(m.venueSeq()).number(m.bidPrice()).number(m.bidQuantity()).number(m.askPrice()).number(m.askQuantity());
      }
      case BookSnapshotDecoder.TEMPLATE_ID -> {
        BookSnapshotDecoder m = snapshot.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        number(m.epoch()).number(m.venueSeq()).number(m.knownBids()).number(m.knownAsks());
        BookSnapshotDecoder.BidsDecoder bids = m.bids();
        number(bids.count());
        for (BookSnapshotDecoder.BidsDecoder level : bids) {
          number(level.price()).number(level.quantity());
        }
        BookSnapshotDecoder.AsksDecoder asks = m.asks();
        number(asks.count());
        for (BookSnapshotDecoder.AsksDecoder level : asks) {
          number(level.price()).number(level.quantity());
        }
      }
      case BookDeltaDecoder.TEMPLATE_ID -> {
        BookDeltaDecoder m = delta.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        number(m.epoch()).number(m.venueSeq()).number(m.firstVenueSeq());
        BookDeltaDecoder.BidsDecoder bids = m.bids();
        number(bids.count());
        for (BookDeltaDecoder.BidsDecoder level : bids) {
          number(level.price()).number(level.quantity());
        }
        BookDeltaDecoder.AsksDecoder asks = m.asks();
        number(asks.count());
        for (BookDeltaDecoder.AsksDecoder level : asks) {
          number(level.price()).number(level.quantity());
        }
      }
      case CandleDecoder.TEMPLATE_ID -> {
        CandleDecoder m = candle.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        number(m.openTime()).number(m.closeTime());
        number(m.openPrice()).number(m.highPrice()).number(m.lowPrice()).number(m.closePrice());
        number(m.volume()).number(m.quoteVolume()).number(m.trades());
        number(m.takerBuyVolume()).number(m.takerBuyQuoteVolume()).number(m.sourceRaw()).number(m.stateRaw());
        text(m.interval());
      }
      case AggregatedBookDecoder.TEMPLATE_ID -> {
        AggregatedBookDecoder m = aggregated.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        number(m.venueSeq()).number(m.crossedFor());
        AggregatedBookDecoder.BidsDecoder bids = m.bids();
        number(bids.count());
        for (AggregatedBookDecoder.BidsDecoder level : bids) {
          number(level.price()).number(level.quantity()).number(level.venue());
        }
        AggregatedBookDecoder.AsksDecoder asks = m.asks();
        number(asks.count());
        for (AggregatedBookDecoder.AsksDecoder level : asks) {
          number(level.price()).number(level.quantity()).number(level.venue());
        }
        text(m.instrument()).text(m.venues()).text(m.excluded());
      }
      case StatusDecoder.TEMPLATE_ID -> {
        StatusDecoder m = status.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        text(m.venue()).text(m.symbol()).text(m.recordType()).text(m.connection()).text(m.state()).text(m.reason());
      }
      case GapDecoder.TEMPLATE_ID -> {
        GapDecoder m = gap.wrapAndApplyHeader(c.buffer, 0, c.header);
        common(c, m.common());
        number(m.tsFrom()).number(m.tsTo()).number(m.firstId()).number(m.lastId());
        text(m.venue()).text(m.symbol()).text(m.recordType()).text(m.reason()).text(m.severity());
        text(m.repairedBy()).text(m.detail());
      }
      default -> {
        return;
      }
    }
    crc.update(bytes.array(), 0, bytes.position());
    messages++;
    counts.merge(c.template(), 1L, Long::sum);
  }

  private void common(Frames c, CommonDecoder common) {
    number(c.template()).number(common.seq()).number(common.tsEvent()).number(common.tsRecv());
    number(common.instrumentId()).number(common.view()).number(common.flags().getRaw()).number(common.bookStateRaw());
  }

  private Checksum number(long value) {
    room(Long.BYTES);
    bytes.putLong(value);
    return this;
  }

  private Checksum number(double value) {
    return number(Double.doubleToRawLongBits(value));
  }

  private Checksum text(String value) {
    byte[] raw = value.getBytes(StandardCharsets.UTF_8);
    number(raw.length);
    room(raw.length);
    bytes.put(raw);
    return this;
  }

  private void room(int size) {
    if (bytes.remaining() < size) {
      ByteBuffer larger = ByteBuffer.allocate(2 * bytes.capacity() + size).order(ByteOrder.LITTLE_ENDIAN);
      bytes = larger.put(bytes.flip());
    }
  }

  @Override
  public String toString() {
    String each = counts.entrySet().stream()
        .map(e -> "\"" + e.getKey() + "\": " + e.getValue())
        .collect(Collectors.joining(", "));
    return String.format("{\"messages\": %d, \"checksum\": \"%08x\", \"templates\": {%s}}", messages, crc.getValue(), each);
  }
}
