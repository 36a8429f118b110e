"""The Python interface: a trained classifier with its data, and the verbs that edit, measure and attack it."""
