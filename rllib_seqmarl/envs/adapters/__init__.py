"""Other libraries' games as team environments."""
