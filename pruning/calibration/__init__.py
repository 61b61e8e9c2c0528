"""The rows that scoring, repair and quantisation look at."""
