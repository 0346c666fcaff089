"""Language models behind one seam: catalogue, transports, journal."""
