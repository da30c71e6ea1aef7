"""How fast, how small, how true."""
