"""Reports: records in, one dict with a published schema out, shown as HTML, Markdown or JSON, in two editions.

Privacy: sees finished records, never rows; the release edition is built without anything that is INTERNAL.
"""

from tabveil.report.document import Report, build, json_schema

__all__ = ["Report", "build", "json_schema"]
