"""Small data sets that ship with the package; see the book's page on data for sources and licences."""
