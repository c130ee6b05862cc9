"""Speeds, printed as ratios of one interleaved run. Nothing here is asserted: `make bench`, never `make test`."""
