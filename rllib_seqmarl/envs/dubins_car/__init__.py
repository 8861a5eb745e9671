"""Cars that drive to their goals among boxes."""
