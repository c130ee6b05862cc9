"""How fast a bundle is on this machine, and what that figure is worth."""
