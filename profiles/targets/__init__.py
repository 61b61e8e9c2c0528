"""The machines that are known, and what their figures allow."""
