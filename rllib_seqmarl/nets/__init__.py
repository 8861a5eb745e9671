"""Networks of sequential decision making, in pure torch: importable without ray or gymnasium."""
