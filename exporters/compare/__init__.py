"""Holds each artifact against its source."""
