"""StarCraft II itself."""
