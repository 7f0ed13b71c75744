"""The site: guide, lessons, reference and records as one set of pages."""
