"""Learning: the shells that put pure-torch networks and losses under RLlib's interfaces."""
