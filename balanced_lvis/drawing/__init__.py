"""Drawing of objects and names on images."""
