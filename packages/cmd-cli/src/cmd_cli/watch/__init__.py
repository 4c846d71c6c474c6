"""Live books, trades and candles in the terminal: a model, its lines, and two screens that show them."""
