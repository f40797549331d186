"""Which KEKs the records of a topic need, told from their headers alone: counted, shown, and judged."""
