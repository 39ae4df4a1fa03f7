"""What the documentation site generates while it is built: mathematics, API, catalogue, gallery."""
