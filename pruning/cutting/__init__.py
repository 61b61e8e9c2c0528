"""Makes a model smaller by a plan, in memory and from disk to disk, and proves it."""
