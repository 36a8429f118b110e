"""Run folders: trained, opened, edited, measured and attacked."""
