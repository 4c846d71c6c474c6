"""What is complete of a store: one verdict for each venue, symbol, type and day."""
