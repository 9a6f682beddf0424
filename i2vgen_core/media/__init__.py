"""Pictures and videos: in and out, colour, comparison, spectra, inspection, and the built-in cascade's world."""
