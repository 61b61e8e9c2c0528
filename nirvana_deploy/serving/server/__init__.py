"""`nirvana serve`: a package behind the Open Inference Protocol."""
