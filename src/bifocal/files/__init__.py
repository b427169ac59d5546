"""Reading what users bring: folders, archives, tables and their cells, whatever wrote them."""
