"""Live market data pushed to other programs: hub, wire format, transports and client library."""
