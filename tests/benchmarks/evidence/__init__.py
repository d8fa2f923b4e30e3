"""The evidence report: do the recommendations and the published remedies do what they say?"""

from . import study_a

STUDIES = {study.NAME: study for study in (study_a,)}
"""Every study by its letter."""
