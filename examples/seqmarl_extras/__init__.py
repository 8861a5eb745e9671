"""What a package of your own may add to rllib-seqmarl: an order, a value, an algorithm, a game."""
