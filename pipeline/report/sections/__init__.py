"""Sections of pages, each from one record."""
