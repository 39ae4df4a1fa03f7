"""Growth functions that were computed with this library, as tables that load at once.

Every number in them was found by a complete search with the engines of this library; nothing was
copied. Each file says which command made it, with the largest search that it allowed;
``python -m rankone.cayley.datasets --out FOLDER`` makes all of them. The families are those of
CayleyPy Growth (arXiv 2509.19162).
"""

from rankone._namespace import public_names
from rankone.cayley.datasets.tables import dataset_names, generate_datasets, load_dataset

__all__ = ["dataset_names", "generate_datasets", "load_dataset"]


def __dir__() -> list[str]:
    return public_names(globals())
