"""Pages with plots: one self-contained HTML file, or PNG pictures."""
