"""StarCraft battles, by one of two simulators."""
