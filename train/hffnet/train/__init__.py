"""Labelled frames in, a checkpoint out: the network, its losses, recipes and training loop (torch)."""
