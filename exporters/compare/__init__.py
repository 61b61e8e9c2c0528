"""Holds each artefact against its source."""
