"""Looking at what a teacher said: rows drawn from a store, what they amount to, and a page about them."""
