# Marks the package so that modules of other packages can cimport from it.
