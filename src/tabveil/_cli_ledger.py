"""`tabveil ledger`: open, show, verify, export, list.

Privacy: sees what was charged, never a row.
"""
