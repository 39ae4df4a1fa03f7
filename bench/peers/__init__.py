"""Side-by-side comparisons of rankone's ops with their peers: ``python -m bench.peers``."""
