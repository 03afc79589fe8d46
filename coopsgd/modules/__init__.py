"""What the built-in networks are made of, as torch modules. Imported when one is built, never by the file of its settings."""
