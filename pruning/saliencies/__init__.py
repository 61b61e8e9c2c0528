"""Scores units without training: one saliency a file, behind one Protocol."""
