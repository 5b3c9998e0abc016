"""Two methods in one run: VAA with AWMT, DREAL with re-identification."""
